"""Commit and roll back what a scope holds, and run the callbacks whose fate is known by that."""

from collections.abc import Awaitable, Callable, Sequence

from ._budget import OutOfTimeError, within
from ._callbacks import Outcome, run_callbacks
from ._cleanup import add_note, add_notes, ends_the_task, one_error, to_its_end
from ._frame import Unit
from ._held import Held, claim_all, give_up_all, hand_over, let_settle
from ._running import current_task
from .exceptions import RollbackOnlyError, ScopeCleanupError, ScopeError

Conclusion = tuple[Outcome | None, BaseException | None]
"""The fate of the work, ``None`` where nothing is known of it, and the error to raise after the callbacks."""


_MOST_ROUNDS = 100


async def commit_all(
    unit: Unit,
    budget: float | None = None,
    kept: Sequence[Held] = (),
    only: Sequence[Held] | None = None,
) -> tuple[Outcome, BaseException | None]:
    """Commit what is in a transaction, in the order of first use, and what the hooks of that put in one.

    Stops at the first that fails, with the others yet to be rolled back. ``budget``: the seconds that each
    may take; past them it is aborted, and its outcome is unknown when the COMMIT was sent. ``kept``: whose
    transactions stay open. ``only``: what alone is to be committed, whatever hooks do.
    """
    holdings = list(unit.values()) if only is None else only
    committed: list[Held] = []
    for _ in range(_MOST_ROUNDS):
        for held in holdings:
            if not held.in_transaction or held in kept:
                continue
            try:
                await within(budget, held.commit(), held.abort)
            except BaseException as error:
                if ends_the_task(error):
                    raise
                return _failed(unit, held, committed, budget, error)
            committed.append(held)
            unit.committed = True
        holdings = [
            held
            for held in unit.values()
            if held.in_transaction and held.busy in (None, current_task()) and held not in kept
        ]
        if only is not None or not holdings:
            return Outcome.COMMITTED, None
    return Outcome.ROLLED_BACK, ScopeError(
        f"After {_MOST_ROUNDS} commits something is in a transaction still: the hooks of commits put each "
        "other's sessions in one. Let a hook write by the session that it was called for."
    )


def _failed(
    unit: Unit, held: Held, committed: Sequence[Held], budget: float | None, error: BaseException
) -> tuple[Outcome, BaseException]:
    """What became of the work when the commit of ``held`` raised ``error``, and what is to be raised."""
    late = isinstance(error, OutOfTimeError)
    failure = _commit_timed_out(held, budget, error) if isinstance(error, OutOfTimeError) else error
    if committed:
        labels = ", ".join(before.label for before in dict.fromkeys(committed))
        add_note(failure, f"Already committed before this failed: {labels}.")
    unit.committed |= held.was_committed and not late
    unknown = held.commit_sent if late else held.outcome_unknown
    return (Outcome.UNKNOWN if unknown else _outcome_of_failure(held, unit)), failure


def _outcome_of_failure(held: Held, unit: Unit) -> Outcome:
    """What the error of a commit says: a hook may have raised it when the COMMIT was done."""
    if held.was_committed and not any(other.in_transaction for other in unit.values()):
        return Outcome.COMMITTED
    return Outcome.ROLLED_BACK


def is_veto(unit: Unit, error: BaseException) -> bool:
    """Whether a hook of the commit has set ``rollback_only``, of which the end of a unit makes no error."""
    by_hand = unit.rollback_only and unit.failure is None and not unit.committed
    return by_hand and isinstance(error, RollbackOnlyError)


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
    unit: Unit,
    holdings: Sequence[Held],
    operation: str,
    work: Callable[[], Awaitable[Conclusion]],
    kept: Sequence[Held] = (),
) -> None:
    """Run ``work``, which ends transactions of ``holdings``, alone on them and to its end.

    Then run the callbacks whose fate is known by that. ``work`` returns the outcome, ``None`` when it says
    nothing about the fate, and the error to raise once the callbacks have run. ``kept``: whose transactions
    are open on purpose, with nothing in them that the fate depends on. Raises `ConcurrentUseError` before
    anything is done.
    """
    for held in holdings:
        if held.busy is not None:
            await let_settle(held)
    claimed = claim_all(holdings, operation)
    await to_its_end(_conclude(unit, claimed, work, kept))


async def _conclude(
    unit: Unit,
    claimed: Sequence[Held],
    work: Callable[[], Awaitable[Conclusion]],
    kept: Sequence[Held],
) -> None:
    hand_over(claimed)
    try:
        outcome, error = await work()
    finally:
        give_up_all(claimed)
    if outcome is Outcome.COMMITTED:
        unit.committed = True
        if any(held.in_transaction and held not in kept for held in unit.values()):
            outcome = None  # another session's work, or what this one went on with, is still open
    failures: list[BaseException] = []
    if outcome is not None and unit.registered is not None:
        unit.registered.settle(outcome)
        failures = await run_callbacks(unit.registered.take_due())
    if error is not None:
        add_notes(error, failures)
    else:
        error = one_error(failures, "Callbacks failed")
    if error is not None:
        raise error


async def commit_each(unit: Unit, holdings: Sequence[Held]) -> Conclusion:
    """The work of ``scope.commit()``."""
    outcome, error = await commit_all(unit, only=holdings)
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
