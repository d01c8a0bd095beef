"""Blocks that nest in the current scope: a savepoint on each of its sessions."""

import asyncio
from collections.abc import Sequence

from ._block import Block, spoil
from ._callbacks import run_callbacks
from ._checks import refuse_sibling, rollback_only_error
from ._cleanup import add_notes, first_of, one_error, run_to_completion, to_its_end
from ._frame import Frame, Unit, current, frames_of
from ._held import Held, Savepoint, claim_all, give_up_all, hand_over, let_settle
from ._scope import Scope
from .exceptions import ScopeError


class Nested(Block):
    """A block in a savepoint on every session of the scope."""

    __slots__ = ("savepoints",)
    sets_savepoint = True
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
