"""The scope: what is known of it, and how it is entered and left."""

import warnings
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Token
from types import CodeType, TracebackType
from typing import Any, ParamSpec, TypeVar, overload

from ._checks import usable_unit
from ._cleanup import mark_committed
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
    Unit,
    current,
    leave,
    nearest_open,
)
from ._running import running_loop
from ._work import Work
from .exceptions import ScopeError

D = TypeVar("D")
P = ParamSpec("P")
T = TypeVar("T")

_MISSING = Token.MISSING
_get_current, _set_current, _reset_current = current.get, current.set, current.reset


class Scope(Work):
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
