"""The end of a scope that holds something: wait for others, commit or roll back, call back, close."""

from collections.abc import Collection, Coroutine, Sequence
from functools import cached_property
from typing import Any

from ._budget import Budget, OutOfTimeError
from ._callbacks import Outcome, run_callbacks
from ._checks import rollback_only_error
from ._cleanup import ends_the_task
from ._frame import CLOSING, Frame, Owner, Unit, current
from ._held import Held, abort_all, shown, wait_until_released
from ._outcome import commit_all, is_veto
from .exceptions import ScopeCleanupError, ScopeError


class Ending:
    """The end of what one scope held, run in one helper task that no cancellation of the caller reaches."""

    abandoned: Collection[Held] = ()
    """What another task went on to use."""

    def __init__(self, scope: Owner, unit: Unit) -> None:
        self.scope = scope
        self.unit = unit
        self.failures: list[BaseException] = []

    @cached_property
    def budget(self) -> Budget:
        """What is left of the time for all but the commits; most endings wait for nothing else."""
        return Budget(self.scope.options.close_timeout)

    async def run(self, frame: Frame, exc: BaseException | None) -> list[BaseException]:
        """Wait for others, commit or roll back, run the callbacks, and close; returns what failed.

        ``frame``: what is current meanwhile, in this task's own Context. ``exc``: the body's exception.
        """
        current.set(frame)
        unit = self.unit
        commit = self.scope.options.commit and exc is None
        if commit and (unit.failure is not None or unit.blocks):
            self.failures.append(self._refusal())
        rolled_back = exc is not None or unit.marked or bool(self.failures)
        for held in list(unit.values()):
            if held.busy is not None:
                await self._wait_for(held)
        outcome = Outcome.COMMITTED
        if commit and not (rolled_back or self.failures):  # else what others still used was aborted
            outcome, error = await commit_all(unit, self.scope.options.close_timeout)
            if error is not None:
                if not is_veto(unit, error):
                    self.failures.append(error)
                await self._roll_back(self._in_transaction(), failed=True)
        else:
            # Without callbacks the close comes next, which may roll back as well.
            lost = self._in_transaction(but_for_the_close=not unit.has_callbacks)
            if lost or rolled_back or self.failures:
                outcome = Outcome.ROLLED_BACK
                await self._roll_back(lost, failed=rolled_back)
        unit.concluded = True
        if unit.registered:
            await self._call_back(outcome)
        frame.unit = CLOSING  # what a close hook touched now would outlive the scope
        for held in list(reversed(unit.values())):
            if not held.is_spent():
                await self._close(held)
        return self.failures

    def _refusal(self) -> ScopeError:
        """What stands against a commit: a block that failed, or that is open."""
        if self.unit.failure is not None:
            return rollback_only_error(self.scope, self.unit.failure)
        return ScopeError(
            f"The scope {self.scope.name}, opened at {self.scope.opened_at}, was left while a block that "
            "joined it or nests in it is still open in another task, so it was rolled back. Await that "
            "task first."
        )

    async def _close(self, held: Held) -> None:
        if held.is_idle:
            try:
                held.close_in_place()
            except BaseException as error:
                self.failures.append(error)
        else:
            await self._attempt(held, held.close())

    def _abort(self) -> None:
        abort_all(self.unit.values())  # a callback may have added to them

    async def _wait_for(self, held: Held) -> None:
        try:
            await self.budget.spend(wait_until_released(held), self._abort)
        except OutOfTimeError:
            self.failures.append(self._out_of_time(f"{shown(held.operation)} of another task"))
        if held.busy is not None:
            self._abandon(held)

    def _abandon(self, held: Held) -> None:
        """Leave alone what another task still uses, and abort it once that task lets go of it."""
        self.abandoned = [*self.abandoned, held]
        assert held.released is not None
        held.released.add_done_callback(lambda _: held.abort())

    def _in_transaction(self, *, but_for_the_close: bool = False) -> list[Held]:
        """What is in a transaction, newest first; ``but_for_the_close``: that a close would not end."""
        return [
            held
            for held in reversed(self.unit.values())
            if held.in_transaction and not (but_for_the_close and held.rolls_back_at_close)
        ]

    async def _roll_back(self, lost: Sequence[Held], *, failed: bool = False) -> None:
        for held in lost:
            await self._attempt(held, held.lose(failed=failed))

    async def _call_back(self, outcome: Outcome) -> None:
        """Run the callbacks, then those that they register; what they leave uncommitted is rolled back."""
        await self._roll_back(self._in_transaction())  # the hook of a rollback may have registered them
        callbacks = self.unit.callbacks
        callbacks.settle(outcome)
        while due := callbacks.take_due():
            self.failures += await run_callbacks(due)
            if lost := self._in_transaction():
                outcome = Outcome.ROLLED_BACK
                await self._roll_back(lost)
            callbacks.settle(outcome)

    async def _attempt(self, held: Held, work: Coroutine[Any, Any, None]) -> None:
        """Await one step of the clean-up, in the time that is left; a failure stops no other step."""
        if held in self.abandoned:
            work.close()
            return
        try:
            await self.budget.spend(work, self._abort)
        except OutOfTimeError:
            held.abort()
            self.failures.append(self._out_of_time(f"closing {held.label}"))
        except BaseException as error:
            if ends_the_task(error):
                raise
            held.abort()
            self.failures.append(error)

    def _out_of_time(self, what: str) -> ScopeCleanupError:
        return ScopeCleanupError(
            f"Leaving scope {self.scope.name} took longer than close_timeout="
            f"{self.scope.options.close_timeout} s while it waited for {what}: its sessions were invalidated "
            "and their connections terminated. Give scope(close_timeout=...) more seconds, or find out what "
            "holds the session."
        )
