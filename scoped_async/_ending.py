"""The end of a scope that holds something: wait for others, commit or roll back, call back, close."""

from collections.abc import Coroutine, Mapping
from typing import Any

from ._callbacks import Callbacks, Outcome, run_callbacks
from ._cleanup import Budget, OutOfTimeError, ends_the_task
from ._held import Held, shown, wait_until_released
from ._outcome import commit_in_order
from .exceptions import ScopeCleanupError


class Ending:
    """The end of one scope, run in one helper task that no cancellation of the caller reaches."""

    def __init__(
        self,
        objects: Mapping[object, Held],
        callbacks: Callbacks,
        *,
        scope_name: str,
        close_timeout: float | None,
    ) -> None:
        self.objects = objects
        self.callbacks = callbacks
        self.scope_name = scope_name
        self.close_timeout = close_timeout
        self.budget = Budget(close_timeout)
        self.failures: list[BaseException] = []
        self.abandoned: set[int] = set()

    @property
    def holdings(self) -> list[Held]:
        """In the order of first use; a callback may add to them."""
        return list(self.objects.values())

    async def conclude(self, *, commit: bool, rolled_back: bool) -> None:
        """Wait for others, commit or roll back, and run the callbacks.

        ``commit``: whether a commit is asked for. ``rolled_back``: whether the work counts as rolled back
        even when no transaction is open any more.
        """
        await self._wait_for_others()
        outcome = await self._conclude(commit=commit, rolled_back=rolled_back)
        await self._call_back(outcome)

    async def close(self) -> None:
        """Close everything, newest first."""
        for held in reversed(self.holdings):
            await self._attempt(held, held.close())

    def abort(self) -> None:
        """Terminate every connection."""
        for held in self.holdings:
            held.abort()

    async def _wait_for_others(self) -> None:
        for held in [held for held in self.holdings if held.busy is not None]:
            try:
                await self.budget.spend(wait_until_released(held), self.abort)
            except OutOfTimeError:
                self.failures.append(self._out_of_time(f"{shown(held.operation)} of another task"))
            if held.busy is not None:
                self._abandon(held)

    def _abandon(self, held: Held) -> None:
        """Leave alone what another task still uses, and abort it once that task lets go of it."""
        self.abandoned.add(id(held))
        assert held.released is not None
        held.released.add_done_callback(lambda _: held.abort())

    async def _conclude(self, *, commit: bool, rolled_back: bool) -> Outcome:
        late = bool(self.failures)  # what others still used was aborted
        if commit and not late:
            outcome, error = await commit_in_order(self.holdings, self.close_timeout)
            if error is not None:
                self.failures.append(error)
                await self._roll_back()
            return outcome
        lost = await self._roll_back()
        return Outcome.ROLLED_BACK if lost or rolled_back or late else Outcome.COMMITTED

    async def _roll_back(self) -> bool:
        """Roll back whatever is in a transaction, newest first; returns whether there was any."""
        lost = [held for held in reversed(self.holdings) if held.in_transaction]
        for held in lost:
            await self._attempt(held, held.lose())
        return bool(lost)

    async def _call_back(self, outcome: Outcome) -> None:
        """Run the callbacks, then those that they register; what they leave uncommitted is rolled back."""
        while callbacks := self.callbacks.settle(outcome):
            self.failures += await run_callbacks(callbacks)
            if await self._roll_back():
                outcome = Outcome.ROLLED_BACK

    async def _attempt(self, held: Held, work: Coroutine[Any, Any, None]) -> None:
        """Await one step of the clean-up, in the time that is left; a failure stops no other step."""
        if id(held) in self.abandoned:
            work.close()
            return
        try:
            await self.budget.spend(work, self.abort)
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
            f"Leaving scope {self.scope_name} took longer than close_timeout={self.close_timeout} s while it "
            f"waited for {what}: its sessions were invalidated and their connections terminated. Give "
            "scope(close_timeout=...) more seconds, or find out what holds the session."
        )
