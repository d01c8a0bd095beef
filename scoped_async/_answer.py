"""Commit, then answer: the outcome of a request's scope is known before its client hears of success."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from types import CodeType
from typing import Any

from ._budget import Budget, OutOfTimeError
from ._callbacks import Outcome
from ._checks import rollback_only_error, usable_unit
from ._cleanup import add_notes, one_error
from ._frame import NEW, Options, Unit
from ._held import SETTLING, Held, abort_all, shown, task_name, wait_until_released
from ._outcome import Conclusion, commit_all, conclude, is_veto, roll_back_all
from ._running import current_task
from ._scope import Scope
from ._session import HeldSession
from .exceptions import ConcurrentUseError, ScopeCleanupError, ScopeError

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
        """What ``naming`` says; errors are told by it, so it raises none of its own."""
        make, *arguments = self.naming
        try:
            return str(make(*arguments))
        except Exception as error:
            return f"<no name: {error!r}>"

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

    async def settle(self, *, success: bool, ends: bool = False) -> None:
        """Commit the work so far, or roll it back; wait for operations of other tasks first.

        It stands for the end of the unit, so ``close_timeout`` bounds it, and ``rollback_only`` that was set
        by hand rolls back without an error. ``success``: whether the client will hear of success. ``ends``:
        whether nothing of the answer comes after it; else a stream of rows that is half read may go on.

        Raises, with nothing committed, what the commit raised; `RollbackOnlyError` when a block that joined
        has failed; `ConcurrentUseError` when another task's operation has not ended in time; `ScopeError`
        while a block is open whose outcome the answer would not wait for, or a stream that the commit would
        end; again the failure of the answer tried before, unless this one does not commit. Raises what a
        rollback or a callback raised.
        """
        if not self.is_unsettled:
            return
        if self.failure is not None and self.commits:
            raise self.failure
        unit, self.failure = self.unit, None
        by_hand = unit.rollback_only
        self.commits = self.commits and not by_hand
        try:
            await self._settle(self.commits, success, ends)
        except Exception as error:
            self.failure = error
            self.commits = False
            raise

    async def finish(self) -> None:
        """Commit what came after the start of the answer, when that was one that commits; else leave it."""
        if self.commits:
            await self.settle(success=True, ends=True)

    async def _settle(self, commit: bool, success: bool, ends: bool) -> None:
        unit, seconds = usable_unit(self, "The answer"), self.options.close_timeout
        holdings, this = list(unit.values()), current_task()
        for held in holdings:
            if held.busy is not None and held.busy is not this:
                await self._wait_for_others(holdings, seconds)
                break
        if unit.blocks and not commit:
            unit.rollback_only = True  # rolling back is the block's end to do, and commit is now out of reach
            return
        lost = success and not commit and not unit.rollback_only
        if unit.blocks or (lost and any(held.commits_at_end for held in holdings)):
            raise ScopeError(
                f"The answer of {self.name} would tell of success while a joined or nested block, or a "
                f"begin(), is open in its scope, and what becomes of that is not known yet. {_LEAVE_FIRST}"
            )

        kept: list[HeldSession] = []

        async def work() -> Conclusion:
            outcome = Outcome.ROLLED_BACK
            error: BaseException | None = None
            if success and not ends and unit.failure is None:
                for held in holdings:
                    if isinstance(held, HeldSession) and held.streams and held.is_streaming:
                        kept.append(held)
            if commit and unit.failure is not None:
                error = rollback_only_error(self, unit.failure)
            elif commit:
                error = await self._refuse_streams(kept, seconds)
                if error is None:
                    outcome, error = await commit_all(unit, seconds, kept)
                if error is None:
                    return outcome, None
                if is_veto(unit, error):
                    self.commits, error = False, None
                else:
                    kept.clear()
            lost = [held for held in holdings if held not in kept] if kept else holdings
            failures = await _roll_back(lost, seconds)
            unit.rollback_only, unit.failure = unit.rollback_only and bool(kept), None
            if error is None:
                return outcome, one_error(failures, "The rollback failed")
            add_notes(error, failures)
            return outcome, error

        called_back = unit.has_callbacks
        try:
            await conclude(unit, holdings, SETTLING, work, kept)
        finally:
            if called_back and not ends:
                await _give_back(unit, seconds, kept)

    async def _refuse_streams(self, kept: list[HeldSession], seconds: float | None) -> ScopeError | None:
        """Why streams that are half read stand in the way of a commit: it would end them.

        Where that cannot be told, the commit is to say what is wrong.
        """
        for held in list(kept):
            try:
                has_work = await Budget(seconds).spend(held.has_work(), held.abort)
            except Exception:
                kept.remove(held)
                continue
            if has_work:
                return ScopeError(
                    f"The answer of {self.name} would end a stream of rows that is half read: the work is to "
                    f"be committed before it, and in the transaction of {held.label}, which the stream "
                    "belongs to, something was written or locked. Read the stream to its end or close it "
                    "before the answer, open it in the body, or commit before it is opened. What wraps the "
                    "answer and reads ahead (GZipMiddleware, BaseHTTPMiddleware) opens what the body opens "
                    "too early: put the middleware of the scope inside of that; in Starlette, add it first."
                )
        return None

    async def _wait_for_others(self, holdings: Sequence[Held], seconds: float | None) -> None:
        """Return when no other task's operation is in flight."""
        budget, this = Budget(seconds), current_task()
        while busy := [held for held in holdings if held.busy is not None and held.busy is not this]:
            held, task = busy[0], busy[0].busy
            try:
                await budget.spend(wait_until_released(held), lambda: None)
            except OutOfTimeError:
                raise ConcurrentUseError(
                    f"The answer of {self.name} has waited for another task for close_timeout={seconds} s, "
                    f"so it was not begun, and nothing was committed: task {task_name(task)} is in "
                    f"{shown(held.operation)} on {held.label}. Await that task before the answer. Or it is "
                    "the body, run ahead of the answer's start by what wraps the answer "
                    "(BaseHTTPMiddleware): put the middleware of the scope inside of that; in Starlette, "
                    "add it first."
                ) from None


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


async def _give_back(unit: Unit, seconds: float | None, kept: Sequence[Held]) -> None:
    """Give back what the callbacks have only read with: the answer may take long.

    What they have written goes on with what comes after; another task may have a part in it.
    """
    left = [held for held in unit.values() if held.in_transaction and held.busy is None and held not in kept]

    async def give_back(held: Held) -> None:
        if await held.refuse_release() is None:
            await held.give_back()

    async def work() -> Conclusion:
        for held in left:
            with suppress(Exception):  # whoever goes on with it hears of what is wrong with it
                await Budget(seconds).spend(give_back(held), held.abort)
        return None, None

    if left:
        await conclude(unit, left, SETTLING, work)


async def _roll_back(holdings: Sequence[Held], seconds: float | None) -> list[BaseException]:
    try:
        return await Budget(seconds).spend(roll_back_all(holdings), lambda: abort_all(holdings))
    except OutOfTimeError as error:
        late = ScopeCleanupError(
            f"The rollback took longer than close_timeout={seconds} s, so the connections were terminated."
        )
        late.__cause__ = error.__cause__
        return [late]
