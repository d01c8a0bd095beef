"""ScopedResource: one object of any kind per scope, made on first use and ended with the scope."""

from collections.abc import Awaitable, Callable
from inspect import isawaitable, iscoroutinefunction
from typing import Any, Generic, TypeVar

from ._checks import foreign_message, usable_unit
from ._frame import Unit, current
from ._held import Held
from ._running import running_loop
from .exceptions import ForeignThreadError

T = TypeVar("T")
Hook = Callable[[T], Awaitable[object] | object]

_get_current = current.get


class ScopedResource(Generic[T]):
    """One object per scope: ``resource()`` returns the current scope's, and makes it on the first call.

    ``factory``: a function without arguments, not async. ``commit``, ``rollback``, ``close``: called with
    the object when the scope commits, rolls back, or ends; sync or async; ``None``: nothing to do. They
    are the scope's to call, in the order of its exit.

    .. versionadded:: 0.1
    """

    def __init__(
        self,
        factory: Callable[[], T],
        *,
        commit: Hook[T] | None = None,
        rollback: Hook[T] | None = None,
        close: Hook[T] | None = None,
    ) -> None:
        if iscoroutinefunction(factory):
            raise TypeError(
                f"The factory of a ScopedResource is not async, since its call is not: {factory!r}."
            )
        self._factory = factory
        self._commit = commit
        self._rollback = rollback
        self._close = close

    def __call__(self) -> T:
        """The object of the current scope.

        Raises `NoScopeError`, `ScopeClosedError`, `ForeignThreadError`, and what the factory raises.
        """
        held = find(self, repr(self), self._hold)
        held.touched = True
        return held.object

    def __repr__(self) -> str:
        return f"ScopedResource({getattr(self._factory, '__qualname__', self._factory)!s})"

    def _hold(self, unit: Unit) -> "HeldObject[T]":
        return HeldObject(self._factory(), repr(self), self._commit, self._rollback, self._close)


class HeldObject(Held, Generic[T]):
    """The object of a `ScopedResource` in one scope."""

    def __init__(
        self, object: T, label: str, commit: Hook[T] | None, roll_back: Hook[T] | None, close: Hook[T] | None
    ) -> None:
        self.busy = self.released = None
        self.object = object
        self.touched = False
        self._label = label
        self._commit = commit
        self._roll_back = roll_back
        self._close = close

    @property
    def label(self) -> str:
        return self._label

    @property
    def in_transaction(self) -> bool:
        return self.touched and not (self._commit is None and self._roll_back is None)

    @property
    def is_idle(self) -> bool:
        return self._close is None and not self.in_transaction and self.busy is None

    @property
    def outcome_unknown(self) -> bool:
        return False

    async def commit(self) -> None:
        self.touched = False
        await self._call(self._commit)

    async def roll_back(self) -> None:
        self.touched = False
        await self._call(self._roll_back)

    async def close(self) -> None:
        await self._call(self._close)

    def close_in_place(self) -> None:
        """Nothing to do."""

    def abort(self) -> None:
        """Nothing that could be done without waiting."""

    async def _call(self, hook: Hook[T] | None) -> None:
        if hook is not None and isawaitable(result := hook(self.object)):
            await result


H = TypeVar("H", bound=Held)


def find(key: object, what: str, hold: Callable[[Unit], H]) -> H:
    """What the current scope holds under ``key``; on the first use ``hold`` makes it.

    Raises `NoScopeError`, `ScopeClosedError`, `ForeignThreadError`. No await stands between the look-up and
    the store, so many tasks that come first at the same moment get one object.
    """
    frame = _get_current()
    held: Any = frame.unit.get(key)
    if held is None:
        unit = usable_unit(frame, what)
        held = hold(unit)
        unit[key] = held
    elif (owner := frame.owner) is not None and owner.loop is not running_loop():
        raise ForeignThreadError(foreign_message(owner, what))
    return held  # type: ignore[no-any-return]  # a key finds what its own `hold` has made
