"""Commit, then answer: the outcome of a request's scope is known before its client hears of success."""

from asyncio import current_task
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from ._callbacks import Outcome
from ._checks import rollback_only_error, usable_unit
from ._cleanup import Budget, OutOfTimeError, add_notes, one_error
from ._frame import NEW, Options
from ._held import SETTLING, Held, wait_until_released
from ._outcome import Conclusion, commit_all, conclude, roll_back_all
from ._scope import Scope
from .exceptions import ScopeCleanupError, ScopeError

_LEAVE_FIRST = (
    "Leave the block before the answer is sent; around a FastAPI `yield` dependency that takes "
    '`Depends(..., scope="function")`.'
)


class RequestScope(Scope):
    """The scope of one request: its outcome is known before the client hears of success.

    `settle` it before anything of the answer is sent, and `finish` when the handler has ended well; whatever
    is left is rolled back where it is left.
    """

    __slots__ = ("commits", "failure", "naming")

    commits: bool
    """Whether the work so far is to be committed before the answer, and what comes after it at the end."""
    failure: Exception | None
    """Why the answer that was tried must not be given."""
    naming: tuple[Callable[..., str], *tuple[Any, ...]]
    """A function and its arguments: the name is made when somebody asks for it."""

    @property
    def name(self) -> str:
        """What ``naming`` says."""
        make, *arguments = self.naming
        return make(*arguments)

    @property
    def is_unsettled(self) -> bool:
        """Whether there is anything for `settle` to do."""
        unit = self.unit
        if self.failure is not None or unit.registered or unit.rollback_only or unit.failure is not None:
            return True
        for held in unit.values():  # noqa: SIM110  # a generator would cost every request twice as much
            if not held.is_idle:
                return True
        return False

    async def settle(self, *, success: bool) -> None:
        """Commit the work so far, or roll it back; wait for operations of other tasks first.

        It stands for the end of the unit, so ``close_timeout`` bounds it, and ``rollback_only`` that was set
        by hand rolls back without an error. ``success``: whether the client will hear of success.

        Raises, with nothing committed, what the commit raised; `RollbackOnlyError` when a block that joined
        has failed; `ConcurrentUseError` when another task's operation has not ended in time; `ScopeError`
        while a block is open whose outcome the answer would not wait for; again the failure of the answer
        tried before, unless this one does not commit. Raises what a rollback or a callback raised.
        """
        if not self.is_unsettled:
            return
        if self.failure is not None and self.commits:
            raise self.failure
        unit, self.failure = self.unit, None
        by_hand = unit.rollback_only
        self.commits = self.commits and not by_hand
        try:
            await self._settle(self.commits, success and not by_hand)
        except Exception as error:
            self.failure = error
            self.commits = False
            raise

    async def finish(self) -> None:
        """Commit what came after the start of the answer, when that was one that commits; else leave it."""
        if self.commits:
            await self.settle(success=True)

    async def _settle(self, commit: bool, success: bool) -> None:
        unit, seconds = usable_unit(self, "The answer"), self.options.close_timeout
        holdings = list(unit.values())
        await _wait_for_others(holdings, seconds)
        if unit.blocks and not commit:
            unit.rollback_only = True  # rolling back is the block's end to do, and commit is now out of reach
            return
        if unit.blocks or (success and not commit and any(held.commits_at_end for held in holdings)):
            raise ScopeError(
                f"The answer of {self.name} would tell of success while a joined or nested block, or a "
                f"begin(), is open in its scope, and what becomes of that is not known yet. {_LEAVE_FIRST}"
            )

        async def work() -> Conclusion:
            outcome = Outcome.ROLLED_BACK
            error: BaseException | None = None
            if commit and unit.failure is not None:
                error = rollback_only_error(self, unit.failure)
            elif commit:
                outcome, error = await commit_all(unit, seconds)
                if error is None:
                    return outcome, None
            failures = await _roll_back(holdings, seconds)
            unit.rollback_only, unit.failure = False, None
            if error is None:
                return outcome, one_error(failures, "The rollback failed")
            add_notes(error, failures)
            return outcome, error

        await conclude(unit, holdings, SETTLING, work)


def new_request(
    options: Options, code: CodeType, naming: tuple[Callable[..., str], *tuple[Any, ...]]
) -> RequestScope:
    """A request's scope that is not entered yet; ``options`` say ``commit=False``."""
    self = RequestScope()
    self.options = options
    self.code = code
    self.instruction = -1
    self.unit = NEW
    self.naming = naming
    self.commits = False
    self.failure = None
    return self


async def _wait_for_others(holdings: Sequence[Held], seconds: float | None) -> None:
    """Return when no other task's operation is in flight, or when the time is up."""
    budget, this = Budget(seconds), current_task()
    try:
        while busy := [held for held in holdings if held.busy is not None and held.busy is not this]:
            await budget.spend(wait_until_released(busy[0]), lambda: None)
    except OutOfTimeError:
        return  # who claims next says what is in the way


async def _roll_back(holdings: Sequence[Held], seconds: float | None) -> list[BaseException]:
    def abort() -> None:
        for held in holdings:
            held.abort()

    try:
        return await Budget(seconds).spend(roll_back_all(holdings), abort)
    except OutOfTimeError as error:
        late = ScopeCleanupError(
            f"The rollback took longer than close_timeout={seconds} s, so the connections were terminated."
        )
        late.__cause__ = error.__cause__
        return [late]
