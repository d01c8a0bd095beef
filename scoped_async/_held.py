"""What a scope holds of one resource, and the guard on it: one operation at a time."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any

from ._running import current_task
from .exceptions import ConcurrentUseError


class Held(ABC):
    """An object that a scope holds: who uses it, and how it ends."""

    # On the instance, all of them: what an instance has and its class too is slower to find.
    busy: "asyncio.Task[Any] | None"
    """The task whose operation is in flight."""
    operation: str
    """The name of that operation."""
    released: "asyncio.Future[None] | None"
    """Set by whoever waits for the end of that operation."""
    was_committed = False
    """Whether the last commit that raised was done all the same: a hook after it has raised."""

    def is_spent(self) -> bool:
        """Whether nothing is left to close: it may be let go without another word."""
        return False

    @property
    @abstractmethod
    def label(self) -> str:
        """The name that errors and notes call it by."""

    @property
    @abstractmethod
    def in_transaction(self) -> bool:
        """Whether there is something to commit or to roll back."""

    @property
    @abstractmethod
    def is_idle(self) -> bool:
        """Whether ``close_in_place()`` is all that its end needs: no I/O, no hook, nothing in flight."""

    @property
    @abstractmethod
    def outcome_unknown(self) -> bool:
        """Whether the last commit failed without an answer of the server."""

    @property
    def commit_sent(self) -> bool:
        """Whether the last commit came so far that it may have happened."""
        return True

    def watch(self) -> None:  # noqa: B027  # only a session's work can be lost unseen
        """From now on, tell the unit of work that is lost by other ways than a scope's or the proxy's."""

    @property
    def savepoints(self) -> Sequence[object]:
        """The savepoints that are open on it."""
        return ()

    @property
    def rolls_back_at_close(self) -> bool:
        """Whether ``close()`` rolls back what is still in a transaction."""
        return False

    @property
    def commits_at_end(self) -> bool:
        """Whether the block of a ``begin()`` is open, whose end commits."""
        return False

    @abstractmethod
    async def commit(self) -> None:
        """Commit; when that fails roll back, and raise."""

    @abstractmethod
    def roll_back(self) -> Coroutine[Any, Any, None]:
        """Roll back."""

    async def lose(self, *, failed: bool) -> None:
        """Roll back at the end of the scope, after which nobody goes on with it.

        ``failed``: whether the scope has failed, rather than that nobody asked for a commit.
        """
        await self.roll_back()

    @abstractmethod
    def close(self) -> Coroutine[Any, Any, None]:
        """Close, with whatever is still in a transaction rolled back."""

    @abstractmethod
    def close_in_place(self) -> None:
        """Close, when ``is_idle``."""

    def let_go(self) -> None:  # noqa: B027  # most are told of nothing
        """The scope has ended: hear no more of what the object does, which may live longer."""

    @abstractmethod
    def abort(self) -> None:
        """Give back at once, without waiting for anybody, what would outlive the scope."""

    async def savepoint(self) -> "Savepoint | None":
        """Set a savepoint; ``None`` when there is nothing yet that one could go back to."""
        return None

    def beginning(self) -> "Savepoint | None":
        """Where one that was first used inside a nested block goes back to; ``None``: it stays as it is."""
        return None

    async def refuse_release(self) -> str | None:
        """Why the connections cannot be given back just now, or ``None``."""
        return None

    async def give_back(self) -> None:  # noqa: B027  # most hold no connection
        """Give the connections back, and keep the objects."""

    def claim(self, operation: str) -> bool:
        """Take it for ``operation`` of this task; returns whether ``give_up`` is owed.

        It is not when the same task has it already: a task may nest operations. Raises
        ``ConcurrentUseError`` when another task's operation is in flight.
        """
        task = current_task()
        if self.busy is None:
            self.busy = task
            self.operation = operation
            return True
        if self.busy is task:
            return False
        raise ConcurrentUseError(
            f"{self.label} is in use: task {task_name(self.busy)} is in {shown(self.operation)}, so task "
            f"{task_name(task)} cannot start {shown(operation)}. One operation at a time: await one after "
            "the other, or give each task a scope of its own: `async with scope(): ...`."
        )

    def give_up(self) -> None:
        """End the operation that ``claim`` began."""
        self.busy = None
        if self.released is not None:
            self.wake()

    def wake(self) -> None:
        """Tell whoever waits that no operation is in flight any more."""
        released, self.released = self.released, None
        assert released is not None
        released.set_result(None)


class Savepoint(ABC):
    """A savepoint on one object that a scope holds."""

    async def refuse_spoiled(self) -> None:  # noqa: B027  # only a database can tell
        """Raise what stands against a release, where the database would say it too late."""

    @abstractmethod
    async def release(self) -> None:
        """Keep what was done since."""

    @abstractmethod
    async def roll_back(self) -> None:
        """Undo what was done since; raises when the savepoint is gone."""


def claim_all(holdings: Sequence[Held], operation: str) -> list[Held]:
    """Claim each, or none: returns those for which ``give_up`` is owed. Raises `ConcurrentUseError`."""
    claimed: list[Held] = []
    try:
        for held in holdings:
            if held.claim(operation):
                claimed.append(held)
    except ConcurrentUseError:
        give_up_all(claimed)
        raise
    return claimed


def hand_over(claimed: Iterable[Held]) -> None:
    """Let this task, a helper of the one that claimed, nest operations: event hooks run in it."""
    task = current_task()
    for held in claimed:
        held.busy = task


def give_up_all(claimed: Iterable[Held]) -> None:
    """End the operation that ``claim_all`` began."""
    for held in claimed:
        held.give_up()


def abort_all(holdings: Iterable[Held]) -> None:
    """Give back at once, without waiting for anybody, what would outlive the scope."""
    for held in holdings:
        held.abort()


SETTLING = "the end of the work before an answer"
"""The operation that others wait for, in place of a `ConcurrentUseError`: they have not asked for it."""


async def let_settle(held: Held) -> None:
    """Wait while `SETTLING` is in flight, unless this task does that."""
    while held.busy is not None and held.operation is SETTLING and held.busy is not current_task():
        await wait_until_released(held)


async def wait_until_released(held: Held) -> None:
    """Return when no operation of any task is in flight."""
    while held.busy is not None:
        if held.released is None:
            held.released = asyncio.get_running_loop().create_future()
        await asyncio.shield(held.released)


def shown(operation: str) -> str:
    """An operation as errors show it: methods with parentheses."""
    return f"{operation}()" if operation.isidentifier() else operation


def task_name(task: "asyncio.Task[Any] | None") -> str:
    """A task as errors call it."""
    return "<none>" if task is None else repr(task.get_name())
