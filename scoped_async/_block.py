"""Blocks that join the current scope."""

from collections.abc import Callable, Coroutine
from contextvars import Token
from types import CodeType, TracebackType
from typing import Any, ParamSpec, TypeVar

from ._checks import closed_message, usable_unit
from ._cleanup import first_of
from ._decorate import decorate
from ._frame import NEW, Frame, Options, Unit, current, frames_of, leave, nearest_open
from ._scope import Scope, new_scope
from .exceptions import NoScopeError, ScopeClosedError, ScopeError

P = ParamSpec("P")
T = TypeVar("T")


class Block(Frame):
    """A block that runs in the scope that is current, or in a new one where there is none."""

    __slots__ = ("_base", "_outer", "_token", "failure", "own", "position", "rollback_only", "scope")
    _base: Frame
    """The scope that it runs in, or that scope's exit: what says whether anything may still be used."""
    _outer: Frame
    _token: "Token[Frame]"
    sets_savepoint = False
    own: Scope | None
    """The scope that it opened, since there was none to run in."""
    scope: Scope | None
    """The scope that it runs in, while it is open."""

    def __init__(self, options: Options, code: CodeType, instruction: int) -> None:
        self.unit = NEW
        self.own = self.scope = None
        self.position = (options, code, instruction)
        self.rollback_only = False
        self.failure: BaseException | None = None
        """What a block that joined this one failed with."""

    async def __aenter__(self) -> Scope:
        if self.unit is not NEW or self.own is not None:
            raise ScopeError("This scope() was entered before: write `async with scope(...): ...` anew.")
        frame = current.get()
        in_use = frame.unit_in_use()
        if in_use is None or in_use.concluded:  # no scope, a dead one, or one whose outcome is known
            self.own = self._new_scope()
            return await self.own.__aenter__()
        self.unit = unit = usable_unit(frame, "scope(propagation=...)")
        frame = nearest_open(frame)
        await self._open(unit, frame)
        scope = frame.owner
        assert isinstance(scope, Scope)
        self.scope, self._outer = scope, frame
        self._base = frame._base if isinstance(frame, Block) else frame
        unit.blocks = [*unit.blocks, self]
        self._token = current.set(self)
        return scope

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.own is not None:
            await self.own.__aexit__(exc_type, exc, traceback)
            return
        scope = self.scope
        if scope is None:
            raise ScopeError("This scope(propagation=...) has not been entered, or it was left before.")
        unit = self.unit_in_use()
        try:
            if unit is not None:
                await self._close(unit, scope, exc)
            elif exc is None:
                raise ScopeClosedError(
                    closed_message(scope, "The end of a block that runs in another's scope")
                )
        finally:
            self.scope = None
            leave(self, self._token)
            around = nearest_open(self._outer)
            self._outer = around if isinstance(around, Block) and around.owner is scope else scope
            self._base = scope  # keep nothing else alive

    def __call__(self, function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Decorate a coroutine function: each call runs in a block of its own. Else `TypeError`."""
        return decorate(function, self.position[0], type(self))

    def _new_scope(self) -> Scope:
        """What it opens when there is no scope to run in."""
        return new_scope(*self.position)

    async def _open(self, unit: Unit, frame: Frame) -> None:
        """What the entry needs, before the block becomes current."""

    async def _close(self, unit: Unit, scope: Scope, exc: BaseException | None) -> None:
        """Mark whatever this block's failure spoils: the nearest savepoint around it, or the scope."""
        unit.blocks.remove(self)
        if exc is None and self.rollback_only:
            exc = ScopeError("rollback_only was set in a block that joined the scope.")
        if exc is not None:
            spoil(unit, scope, self._outer, exc)

    # What a frame is asked.

    @property
    def owner(self) -> Scope | None:
        return self.scope if self.scope is not None else self._outer.owner  # type: ignore[return-value]

    @property
    def outer(self) -> Frame:
        return self._outer

    @property
    def is_open(self) -> bool:
        return self.scope is not None and self._base.is_open

    def unit_in_use(self) -> Unit | None:
        return self._base.unit_in_use()  # after its end too: whoever inherited it is still in the scope

    @property
    def marked(self) -> bool:
        return self.rollback_only or self.failure is not None or self._outer.marked

    def mark(self) -> None:
        self.rollback_only = True


class Mandatory(Block):
    """A block that joins, and there must be something to join."""

    __slots__ = ()

    def _new_scope(self) -> Scope:
        raise NoScopeError(
            'scope(propagation="mandatory") needs a scope to join, and none is open here. Call it from '
            'within `async with scope(): ...`, or use propagation="join", which opens one if need be.'
        )


def spoil(unit: Unit, scope: Scope, frame: Frame, failure: BaseException) -> None:
    """Mark what a failed block leaves behind: the nearest nested block around it, else the scope."""
    for around in frames_of(scope, frame):
        if isinstance(around, Block) and around.sets_savepoint and around.is_open:
            around.failure = first_of(around.failure, failure)
            return
    unit.failure = first_of(unit.failure, failure)
