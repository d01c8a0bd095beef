"""What a scope holds of one resource, and the guard on it: one operation at a time."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

from .exceptions import ConcurrentUseError


class Held(ABC):
    """An object that a scope holds: who uses it, and how it ends."""

    __slots__ = ("busy", "operation", "released")

    busy: "asyncio.Task[Any] | None"
    """The task whose operation is in flight."""
    operation: str
    """The name of that operation."""
    released: "asyncio.Future[None] | None"
    """Set by whoever waits for the end of that operation."""

    def __init__(self) -> None:
        self.busy = None
        self.operation = ""
        self.released = None

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

    @abstractmethod
    async def commit(self) -> None:
        """Commit; when that fails roll back, and raise."""

    @abstractmethod
    async def roll_back(self) -> None:
        """Roll back."""

    @abstractmethod
    async def close(self) -> None:
        """Close, with whatever is still in a transaction rolled back."""

    @abstractmethod
    def close_in_place(self) -> None:
        """Close, when ``is_idle``."""

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

    async def give_back(self) -> None:
        """Give the connections back, and keep the objects."""

    def claim(self, operation: str) -> bool:
        """Take it for ``operation`` of this task; returns whether ``give_up`` is owed.

        It is not when the same task has it already: a task may nest operations. Raises
        ``ConcurrentUseError`` when another task's operation is in flight.
        """
        task = asyncio.current_task()
        if self.busy is None:
            self.busy = task
            self.operation = operation
            return True
        if self.busy is task:
            return False
        raise ConcurrentUseError(
            f"{self.label} is in use: task {_task_name(self.busy)} is in {self.operation}(), so task "
            f"{_task_name(task)} cannot start {operation}(). One operation at a time: await one after the "
            "other, or give each task a scope of its own: `async with scope(): ...`."
        )

    def give_up(self) -> None:
        """End the operation that ``claim`` began."""
        self.busy = None
        if self.released is not None:
            self.wake()

    def wake(self) -> None:
        """Tell whoever waits that no operation is in flight any more."""
        released, self.released = self.released, None
        if released is not None and not released.done():
            released.set_result(None)


class Savepoint(ABC):
    """A savepoint on one object that a scope holds."""

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
    task = asyncio.current_task()
    for held in claimed:
        held.busy = task


def give_up_all(claimed: Iterable[Held]) -> None:
    """End the operation that ``claim_all`` began."""
    for held in claimed:
        held.give_up()


async def wait_until_released(held: Held) -> None:
    """Return when no operation of any task is in flight."""
    while held.busy is not None:
        if held.released is None:
            held.released = asyncio.get_running_loop().create_future()
        await asyncio.shield(held.released)


def _task_name(task: "asyncio.Task[Any] | None") -> str:
    return "<none>" if task is None else repr(task.get_name())
