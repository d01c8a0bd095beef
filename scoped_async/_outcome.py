"""Commit and roll back what a scope holds, and run the callbacks whose fate is known by that."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from ._callbacks import Callbacks, Outcome, run_callbacks
from ._cleanup import Budget, OutOfTimeError, add_notes, ends_the_task, one_error, to_its_end
from ._held import Held, claim_all, give_up_all, hand_over, let_settle
from .exceptions import ScopeCleanupError, ScopeError

Conclusion = tuple[Outcome | None, BaseException | None]
"""The fate of the work, ``None`` where nothing is known of it, and the error to raise after the callbacks."""


async def commit_in_order(
    holdings: Iterable[Held], budget: float | None = None
) -> tuple[Outcome, BaseException | None]:
    """Commit in the order of first use; stop at the first that fails, with the others yet to be rolled back.

    ``budget``: the seconds that each may take; past them it is aborted, and its outcome is unknown
    when the COMMIT was sent.
    """
    committed: list[Held] = []
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
                labels = ", ".join(before.label for before in committed)
                failure.add_note(f"Already committed before this failed: {labels}.")
            unknown = held.commit_sent if isinstance(error, OutOfTimeError) else held.outcome_unknown
            return (Outcome.UNKNOWN if unknown else Outcome.ROLLED_BACK), failure
        committed.append(held)
    return Outcome.COMMITTED, None


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
    late = f"did not answer within close_timeout={seconds} s, and the connection was terminated"
    failure = ScopeCleanupError(
        f"The outcome of the commit of {held.label} is unknown: the database {late}. Look in the database "
        "before you repeat the work."
        if held.commit_sent
        else f"The commit of {held.label} was not sent, so its work is rolled back: there were changes to "
        f"flush before it, and the database {late}. Flush in the body, whose time is not bounded."
    )
    failure.__cause__ = error.__cause__
    return failure


async def conclude(
    objects: Mapping[object, Held],
    callbacks: Callbacks,
    holdings: Sequence[Held],
    operation: str,
    work: Callable[[], Awaitable[Conclusion]],
) -> None:
    """Run ``work``, which ends transactions of ``holdings``, alone on them and to its end.

    Then run the callbacks whose fate is known by that. ``work`` returns the outcome, ``None`` when it says
    nothing about the fate, and the error to raise once the callbacks have run. Raises `ConcurrentUseError`
    before anything is done.
    """
    for held in holdings:
        await let_settle(held)
    claimed = claim_all(holdings, operation)
    await to_its_end(_conclude(objects, callbacks, claimed, work))


async def _conclude(
    objects: Mapping[object, Held],
    callbacks: Callbacks,
    claimed: Sequence[Held],
    work: Callable[[], Awaitable[Conclusion]],
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


async def commit_all(holdings: Sequence[Held]) -> Conclusion:
    """The work of ``scope.commit()``."""
    outcome, error = await commit_in_order(holdings)
    if error is not None:
        add_notes(error, await roll_back_all(holdings))
    return outcome, error


async def release_all(holdings: Sequence[Held]) -> Conclusion:
    """The work of ``scope.release()``: all of them, or none."""
    for held in holdings:
        if reason := await held.refuse_release():
            return None, ScopeError(f"scope.release() of {held.label}: {reason}.")
    for held in holdings:
        await held.give_back()
    return None, None
