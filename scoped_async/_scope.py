"""The scope: what it offers while it is open, and how it is entered and left."""

import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Token
from types import CodeType, TracebackType
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, overload

from ._callbacks import Callback, Outcome
from ._checks import refuse_in_block, refuse_in_savepoint, refuse_marked, usable_unit
from ._cleanup import mark_committed, one_error
from ._decorate import decorate
from ._exit import end
from ._frame import (
    CLOSED,
    CLOSING,
    NEW,
    NO_SCOPE,
    UNUSED,
    Frame,
    Options,
    Owner,
    Unit,
    current,
    leave,
    nearest_open,
)
from ._outcome import Conclusion, commit_each, conclude, release_all, roll_back_all
from ._running import running_loop
from .exceptions import ScopeError

D = TypeVar("D")
P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_MISSING = Token.MISSING
_get_current, _set_current, _reset_current = current.get, current.set, current.reset


class Scope(Owner):
    """A unit of work: the sessions that are touched while it is current live in it and end with it.

    Made by `scope()`, entered once by ``async with``. A scope compares and hashes as itself.

    .. versionadded:: 0.1
    """

    __slots__ = ("code", "instruction", "link")
    code: CodeType
    instruction: int
    """Where in ``code`` it was opened; below zero: at its first line."""
    link: "Token[Frame] | tuple[weakref.ref[Frame], ...] | None"
    """While open the token; then what was still open around it."""

    @property
    def token(self) -> "Token[Frame] | None":
        """The ``Token`` (PEP 567) that the entry of the scope returned; ``None`` before it and afterwards."""
        link: Token[Frame] | tuple[weakref.ref[Frame], ...] | None = getattr(self, "link", None)
        return link if isinstance(link, Token) else None

    @property
    def name(self) -> str:
        """The name given, else the qualified name of the function that opened the scope."""
        name = self.options.name
        if name is None:
            return self.code.co_qualname
        return name if isinstance(name, str) else name()

    @property
    def opened_at(self) -> str:
        """Where the scope was opened: ``"app.py:41"``."""
        return f"{self.code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{self.line}"

    @property
    def line(self) -> int:
        """The line of ``opened_at``."""
        line = None
        if self.instruction >= 0:
            line = list(self.code.co_positions())[self.instruction // 2][0]
        return line or self.code.co_firstlineno

    @property
    def parent(self) -> "Scope | None":
        """The nearest enclosing scope that is still open; ``None`` without one, and while this is not."""
        frame = NO_SCOPE if self.unit is NEW or self.unit is CLOSED else nearest_open(self.outer)
        scope = frame.owner
        return scope if isinstance(scope, Scope) else None

    @property
    def closed(self) -> bool:
        """Whether the scope has ended."""
        return self.unit is CLOSED

    def __repr__(self) -> str:
        states = {id(NEW): "new", id(CLOSING): "closing", id(CLOSED): "closed"}
        return f"<Scope {self.name} opened at {self.opened_at}, {states.get(id(self.unit), 'open')}>"

    async def commit(self) -> None:
        """Commit every session of the scope in the order of first use, then run the callbacks.

        When one fails, those after it are rolled back. Raises what the commit raised; `RollbackOnlyError`
        when the scope is marked; `ScopeError` while a joined or nested block is open;
        `ConcurrentUseError` while another task's operation is in flight; `ScopeClosedError`;
        `ForeignThreadError`.
        """
        unit = self._usable("scope.commit()")
        refuse_in_block(unit, "scope.commit()")
        refuse_marked(unit, self)
        holdings = list(unit.values())
        await conclude(unit, holdings, "commit", lambda: commit_each(unit, holdings))

    async def rollback(self) -> None:
        """Roll back every session of the scope, newest first, clear the mark, and run the callbacks.

        Raises what a rollback raised; `ScopeError` while a joined or nested block is open;
        `ConcurrentUseError` while another task's operation is in flight; `ScopeClosedError`;
        `ForeignThreadError`.
        """
        unit = self._usable("scope.rollback()")
        refuse_in_block(unit, "scope.rollback()")
        holdings = list(unit.values())

        async def work() -> Conclusion:
            failures = await roll_back_all(holdings)
            unit.rollback_only, unit.failure = False, None
            return Outcome.ROLLED_BACK, one_error(failures, "The rollback failed")

        await conclude(unit, holdings, "rollback", work)

    async def release(self) -> None:
        """Give the scope's connections back to the pool while the scope stays open.

        For a slow call in the middle of a unit of work. Loaded objects stay attached and loaded, no callback
        runs, and the next use takes a connection again, in a new transaction. Raises `ScopeError`, and
        changes nothing, when something would be lost or is going on: pending changes, anything written or
        locked in the transaction, an open nested block, ``begin()`` or stream, an operation in flight.
        """
        unit = self._usable("scope.release()")
        refuse_in_savepoint(unit, "scope.release()")
        holdings = list(unit.values())
        await conclude(unit, holdings, "release", lambda: release_all(holdings))

    def after_commit(self, fn: Callable[[*Ts], Awaitable[object] | object], *args: *Ts) -> None:
        """Run ``fn(*args)`` once the work since the last outcome is committed; an async ``fn`` is awaited.

        Callbacks run once, in order, in the scope, when its connections are free; registered inside a
        savepoint they follow its fate. What they raise is raised when all have run. Raises
        `ScopeClosedError`, `ForeignThreadError`.
        """
        self._add(Callback(Outcome.COMMITTED, fn, args))

    def after_rollback(self, fn: Callable[[*Ts], Awaitable[object] | object], *args: *Ts) -> None:
        """Run ``fn(*args)`` once the work since the last outcome is rolled back; else as `after_commit`.

        Raises what that raises.
        """
        self._add(Callback(Outcome.ROLLED_BACK, fn, args))

    def _add(self, callback: Callback) -> None:
        unit = self._usable(f"after_{'commit' if callback.outcome is Outcome.COMMITTED else 'rollback'}()")
        if not callable(callback.function):
            raise TypeError(
                f"A callback is a function, followed by its arguments, and not {callback.function!r}: write "
                "`after_commit(send, message)`."
            )
        unit.callbacks.add(callback)
        for held in unit.values():
            held.watch()

    @property
    def rollback_only(self) -> bool:
        """Whether the work can only be rolled back; may be set to ``True``, and `rollback` clears it.

        Set by hand, the exit (in a nested block: the block's end) rolls back without an error, and an
        explicit commit raises `RollbackOnlyError`. Inside a joined block it is that block's failure.
        Raises `ScopeError` when set to ``False``, `ScopeClosedError`, `ForeignThreadError`.
        """
        return self.here().marked

    @rollback_only.setter
    def rollback_only(self, value: bool) -> None:
        if not value:
            raise ScopeError("rollback_only can be set to True only: `await scope.rollback()` clears it.")
        self._usable("rollback_only")
        self.here().mark()

    def _usable(self, what: str) -> Unit:
        return usable_unit(self.here(), what)

    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorate a coroutine function: each call runs in a fresh scope. Else `TypeError`."""
        return decorate(function, self.options, new_scope)

    # What a frame is asked.

    @property
    def owner(self) -> "Scope":
        return self

    @property
    def outer(self) -> Frame:
        link = self.link
        if isinstance(link, Token):
            return NO_SCOPE if link.old_value is Token.MISSING else link.old_value
        for reference in link or ():
            if (frame := reference()) is not None and frame.is_open:
                return frame
        return NO_SCOPE

    @property
    def is_open(self) -> bool:
        return self.unit is not CLOSED

    def unit_in_use(self) -> Unit | None:
        unit = self.unit
        if unit is UNUSED:
            unit = self.unit = Unit()
            return unit
        return None if unit is CLOSING or unit is CLOSED or unit is NEW else unit

    @property
    def marked(self) -> bool:
        return self.unit.marked

    def mark(self) -> None:
        self.unit.rollback_only = True

    # How it is entered and left. What stands in these two is paid by every scope.

    async def __aenter__(self) -> "Scope":
        if self.unit is not NEW:
            raise ScopeError(
                f"{self!r} was entered before. A scope() is entered once: write `async with scope(): ...` "
                "anew, or decorate the function, which opens a fresh scope on each call."
            )
        self.loop = running_loop()
        self.unit = UNUSED
        self.link = _set_current(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        unit, failure = self.unit, None
        if unit is not UNUSED and not unit.is_spent():
            failure = await end(self, exc)
        elif exc is not None and unit.committed:
            mark_committed(exc)
        self.unit = CLOSED
        token: Any = self.link
        try:
            if _get_current() is self and token.old_value is _MISSING:
                _reset_current(token)
                self.link = None
            else:
                self._leave(token)
        except ValueError:  # entered in another Context, of which this one is a copy
            self._leave(token)
        if failure is not None:
            raise failure

    def _leave(self, token: "Token[Frame]") -> None:
        """Leave what a fast exit does not: keep no more than weak references to what is open around."""
        leave(self, token)
        around: list[weakref.ref[Frame]] = []
        frame = nearest_open(self)
        while frame is not NO_SCOPE:
            around.append(weakref.ref(frame))
            frame = nearest_open(frame.outer)
        self.link = tuple(around) or None

    def __del__(self) -> None:
        if self.unit is not CLOSED and self.unit is not NEW:
            warnings.warn(  # noqa: B028  # what happens to run when it is collected is not to blame
                f"The scope {self.name}, opened at {self.opened_at}, was never left: "
                "use `async with scope(): ...`.",
                ResourceWarning,
                source=self,
            )


def new_scope(options: Options, code: CodeType, instruction: int) -> Scope:
    """A scope that is not entered yet."""
    self = Scope()
    self.options = options
    self.code = code
    self.instruction = instruction
    self.unit = NEW
    return self


_NO_DEFAULT: Any = object()


@overload
def current_scope() -> Scope: ...
@overload
def current_scope(default: D) -> Scope | D: ...
def current_scope(default: Any = _NO_DEFAULT) -> Any:
    """The scope that is current: what the one ContextVar (PEP 567) says in this Context.

    ``default``: returned when there is none, instead of raising `NoScopeError`. Raises `ScopeClosedError`
    when the one that is current here has ended.

    .. versionadded:: 0.1
    """
    frame = _get_current()
    scope = frame.owner
    if scope is None and default is not _NO_DEFAULT:
        return default
    if scope is None or frame.unit_in_use() is None:
        usable_unit(frame, "current_scope()")
    return scope
