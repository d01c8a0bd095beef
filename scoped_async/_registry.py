"""The registry of a proxy: whether the current scope has a session of it, and which."""

from collections.abc import Callable
from typing import Generic, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from ._callbacks import Outcome
from ._checks import usable_unit
from ._frame import current
from ._session import HeldSession

S = TypeVar("S", bound=AsyncSession)
_get_current = current.get


class Registry(Generic[S]):
    """The session of the current scope, as SQLAlchemy's ``ScopedRegistry``.

    .. versionadded:: 0.1
    """

    def __init__(self, proxy: Callable[[], S]) -> None:
        self._proxy = proxy

    def __call__(self) -> S:
        """The session; made when there is none. Raises as every name of the proxy does."""
        return self._proxy()

    def has(self) -> bool:
        """Whether there is one; ``False`` without a scope."""
        unit = _get_current().unit_in_use()
        return unit is not None and self._proxy in unit

    def set(self, obj: S) -> None:
        """Let ``obj`` be it; the scope closes it, and the one before, whose open work is rolled back.

        Raises `NoScopeError`, `ScopeClosedError`, `ForeignThreadError`.
        """
        unit = usable_unit(_get_current(), "Session.registry.set()")
        held = unit.get(self._proxy)
        if isinstance(held, HeldSession) and held.object is obj:
            return
        owner = _get_current().owner
        assert owner is not None
        replacing = HeldSession(obj, owner, owner.readonly)
        self.clear()
        unit[self._proxy] = replacing
        if unit.has_callbacks:
            replacing.watch()

    def clear(self) -> None:
        """Forget it; the scope still closes it, and what is open in it is rolled back. Raises as `set`."""
        unit = usable_unit(_get_current(), "Session.registry.clear()")
        held = unit.get(self._proxy)
        if isinstance(held, HeldSession):
            if held.in_transaction:
                unit.callbacks.settle(Outcome.ROLLED_BACK)
            del unit[self._proxy]
            held.forgotten = True
            held.unwatch()
            unit[held] = held
