"""End the work of a scope, in its middle or at its exit: commit or roll back, run the callbacks, close."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from ._callbacks import Callbacks, Outcome, run_callbacks
from ._cleanup import Budget, OutOfTimeError, add_notes, ends_the_task, one_error, to_its_end
from ._held import Held, claim_all, give_up_all, hand_over, wait_until_released
from .exceptions import ScopeCleanupError


async def commit_in_order(holdings: Iterable[Held], budget: float | None = None) -> BaseException | None:
    """Commit in the order of first use; stop at the first that fails and return its error.

    ``budget``: the seconds that each may take; past them it is aborted, and its outcome is unknown.
    """
    committed: list[str] = []
    for held in holdings:
        if not held.in_transaction:
            continue
        try:
            await Budget(budget).spend(held.commit(), held.abort)
        except BaseException as error:
            if ends_the_task(error):
                raise
            failure = _commit_timed_out(held, budget, error) if isinstance(error, OutOfTimeError) else error
            if committed:
                failure.add_note(f"Already committed before this failed: {', '.join(committed)}.")
            return failure
        committed.append(held.label)
    return None


async def roll_back_all(holdings: Sequence[Held]) -> list[BaseException]:
    """Roll back newest first, each whatever the others do; returns what failed."""
    failures: list[BaseException] = []
    for held in reversed(holdings):
        try:
            await held.roll_back()
        except BaseException as error:
            held.abort()
            if ends_the_task(error):
                raise
            failures.append(error)
    return failures


def _commit_timed_out(held: Held, seconds: float | None, error: OutOfTimeError) -> ScopeCleanupError:
    failure = ScopeCleanupError(
        f"The outcome of the commit of {held.label} is unknown: the database did not answer within "
        f"close_timeout={seconds} s, and the connection was terminated. Look in the database before you "
        "repeat the work."
    )
    failure.__cause__ = error.__cause__
    return failure


async def conclude(
    objects: Mapping[object, Held],
    callbacks: Callbacks,
    holdings: Sequence[Held],
    operation: str,
    work: Callable[[], Awaitable[tuple[Outcome | None, BaseException | None]]],
) -> None:
    """Run ``work``, which ends transactions of ``holdings``, alone on them and to its end.

    Then run the callbacks whose fate is known by that. ``work`` returns the outcome, ``None`` when it says
    nothing about the fate, and the error to raise once the callbacks have run. Raises `ConcurrentUseError`
    before anything is done.
    """
    claimed = claim_all(holdings, operation)
    await to_its_end(_conclude(objects, callbacks, claimed, work))


async def _conclude(
    objects: Mapping[object, Held],
    callbacks: Callbacks,
    claimed: Sequence[Held],
    work: Callable[[], Awaitable[tuple[Outcome | None, BaseException | None]]],
) -> None:
    hand_over(claimed)
    try:
        outcome, error = await work()
    finally:
        give_up_all(claimed)
    if outcome is Outcome.COMMITTED and any(held.in_transaction for held in objects.values()):
        outcome = None  # another session's work, or what this one went on with, is still open
    failures = await run_callbacks(callbacks.settle(outcome)) if outcome is not None else []
    if error is not None:
        add_notes(error, failures)
    else:
        error = one_error(failures, "Callbacks failed")
    if error is not None:
        raise error


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

    async def run(self, *, commit: bool, rolled_back: bool) -> list[BaseException]:
        """Carry it out and return what failed.

        ``commit``: whether a commit is asked for. ``rolled_back``: whether the work counts as rolled back
        even when no transaction is open any more.
        """
        try:
            await self._wait_for_others()
            outcome = await self._conclude(commit=commit, rolled_back=rolled_back)
            await self._call_back(outcome)
            for held in reversed(self.holdings):
                await self._attempt(held, held.close())
        except asyncio.CancelledError:
            # The loop is shutting down and nothing can be waited for any more.
            self.abort()
            raise
        return self.failures

    def abort(self) -> None:
        """Terminate every connection."""
        for held in self.holdings:
            held.abort()

    async def _wait_for_others(self) -> None:
        for held in self.holdings:
            try:
                await self.budget.spend(wait_until_released(held), self.abort)
            except OutOfTimeError:
                self.failures.append(self._out_of_time(f"{held.operation}() of another task"))
            if held.busy is not None:
                self.abandoned.add(id(held))

    async def _conclude(self, *, commit: bool, rolled_back: bool) -> Outcome:
        if commit and not self.abandoned:
            error = await commit_in_order(self.holdings, self.close_timeout)
            if error is None:
                return Outcome.COMMITTED
            self.failures.append(error)
            unknown = any(held.outcome_unknown for held in self.holdings) or isinstance(error, ScopeCleanupError)
            await self._roll_back()
            return Outcome.UNKNOWN if unknown else Outcome.ROLLED_BACK
        lost = await self._roll_back()
        return Outcome.ROLLED_BACK if lost or rolled_back or self.abandoned else Outcome.COMMITTED

    async def _roll_back(self) -> bool:
        """Roll back whatever is in a transaction, newest first; returns whether there was any."""
        lost = [held for held in reversed(self.holdings) if held.in_transaction]
        for held in lost:
            await self._attempt(held, held.roll_back())
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
