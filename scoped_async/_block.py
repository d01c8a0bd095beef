"""Blocks that join the current scope, or nest in it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextvars import Token
from types import CodeType, TracebackType
from typing import Any, ParamSpec, TypeVar

from ._callbacks import run_callbacks
from ._checks import closed_message, refuse_sibling, rollback_only_error, usable_unit
from ._cleanup import add_notes, first_of, one_error, run_to_completion, to_its_end
from ._decorate import decorate
from ._frame import NEW, Frame, Options, Unit, current, frames_of, leave, nearest_open
from ._held import Held, Savepoint, claim_all, give_up_all, hand_over, let_settle
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


class Nested(Block):
    """A block in a savepoint on every session of the scope."""

    __slots__ = ("savepoints",)
    savepoints: dict[Held, Savepoint]

    def stands_around(self, frame: Frame) -> bool:
        return any(around is self for around in frames_of(frame.owner, frame))

    async def _open(self, unit: Unit, frame: Frame) -> None:
        for held in list(unit.values()):
            await let_settle(held)
        refuse_sibling(unit, frame)
        holdings = list(unit.values())
        claimed = claim_all(holdings, "the entry of a nested block")
        self.savepoints = {}
        try:
            for held in holdings:
                if (savepoint := await held.savepoint()) is not None:
                    self.savepoints[held] = savepoint
        except BaseException as error:
            add_notes(error, await to_its_end(undo(list(self.savepoints.values()))))
            raise
        finally:
            give_up_all(claimed)
        unit.savepoints = [*unit.savepoints, self]

    async def _close(self, unit: Unit, scope: Scope, exc: BaseException | None) -> None:
        claimed: list[Held] = []
        failures: list[BaseException] = []
        try:
            if self not in unit.savepoints:
                raise ScopeError("The savepoint of a nested block is gone: the block around it has ended.")
            claimed = claim_all(list(unit.values()), "the end of a nested block")
        except ScopeError as refusal:
            failures.append(refusal)
        task, cancellation = await run_to_completion(self._end(unit, scope, exc, claimed, failures))
        if task.cancelled():  # the loop is shutting down
            failures, cancellation = [], cancellation or asyncio.CancelledError()
        elif (broken := task.exception()) is not None:  # the GeneratorExit of a callback, perhaps
            failures = [broken]
        else:
            failures = task.result()
        if (on_its_way := exc if cancellation is None else cancellation) is not None:
            add_notes(on_its_way, failures)
        error = cancellation or (
            None if exc is not None else one_error(failures, "A nested block failed to end")
        )
        if error is not None:
            raise error

    async def _end(
        self,
        unit: Unit,
        scope: Scope,
        exc: BaseException | None,
        claimed: list[Held],
        failures: list[BaseException],
    ) -> list[BaseException]:
        """What the helper task does: release the savepoints or go back to them, then call back."""
        keep = exc is None and self.failure is None and not self.rollback_only
        undone = False
        hand_over(claimed)
        try:
            if not failures:
                failures, undone = await self._release_or_undo(unit, keep=keep)
        finally:
            give_up_all(claimed)
        if self in unit.savepoints:
            del unit.savepoints[unit.savepoints.index(self) :]
        unit.blocks.remove(self)
        current.set(self._outer)  # in this task's own Context: the callbacks run around the block
        kept = keep and not failures
        # What is left undone, or came too late to be undone, is for the block around to undo.
        if (spoiled := self.failure if kept else None if undone else first_of(exc, *failures)) is not None:
            spoil(unit, scope, self._outer, spoiled)
        if undone and not kept:
            unit.callbacks.lose(self)
        if exc is None and self.failure is not None:
            refusal = rollback_only_error(scope, self.failure)
            add_notes(refusal, failures)
            failures = [refusal]
        return failures + await run_callbacks(unit.callbacks.take_due())

    async def _release_or_undo(self, unit: Unit, *, keep: bool) -> tuple[list[BaseException], bool]:
        """Returns what failed, and whether nothing of the block's work is left."""
        failures: list[BaseException] = []
        if keep:
            try:
                for savepoint in [*self.savepoints.values(), *self._beginnings(unit)]:
                    await savepoint.refuse_spoiled()
                for savepoint in reversed(self.savepoints.values()):
                    await savepoint.release()
                return [], False
            except Exception as error:
                failures.append(error)
        lost = await undo([*self.savepoints.values(), *self._beginnings(unit)])
        return failures + lost, not lost

    def _beginnings(self, unit: Unit) -> list[Savepoint]:
        """Where what was first used within the block goes back to."""
        begun = (held.beginning() for held in unit.values() if held not in self.savepoints)
        return [savepoint for savepoint in begun if savepoint is not None]


async def undo(savepoints: Sequence[Savepoint]) -> list[BaseException]:
    """Roll back to each, newest first; returns what failed."""
    failures: list[BaseException] = []
    for savepoint in reversed(savepoints):
        try:
            await savepoint.roll_back()
        except Exception as error:
            failures.append(error)
    return failures


def spoil(unit: Unit, scope: Scope, frame: Frame, failure: BaseException) -> None:
    """Mark what a failed block leaves behind: the nearest nested block around it, else the scope."""
    for around in frames_of(scope, frame):
        if isinstance(around, Nested) and around.is_open:
            around.failure = first_of(around.failure, failure)
            return
    unit.failure = first_of(unit.failure, failure)
