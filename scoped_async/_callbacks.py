"""The callbacks of a unit of work: registered within savepoints, run once when their fate is known."""

from collections.abc import Awaitable, Callable, Container, Iterable, Sequence
from enum import Enum, auto
from inspect import isawaitable
from operator import itemgetter
from typing import Any, NamedTuple

from ._cleanup import add_note, ends_the_task


class Outcome(Enum):
    """What became of the work since the last outcome."""

    COMMITTED = auto()
    ROLLED_BACK = auto()
    UNKNOWN = auto()


class Callback(NamedTuple):
    """A function to run when the work it belongs to has had ``outcome``."""

    number: int
    """The order of registration."""
    outcome: Outcome
    function: Callable[..., Awaitable[object] | object]
    arguments: tuple[Any, ...]
    within: Sequence[object]
    """The blocks and savepoints that were open: with each of them the work is lost."""


class Callbacks:
    """The callbacks of one unit, and which of them are due."""

    __slots__ = ("_due", "_waiting", "registered")

    def __init__(self) -> None:
        self.registered = 0
        """How many were registered so far."""
        self._waiting: list[Callback] = []
        self._due: list[Callback] = []
        """Those whose fate became known where nothing could be awaited; they run with the next."""

    def __bool__(self) -> bool:
        return bool(self._due or self._waiting)

    def add(
        self,
        outcome: Outcome,
        function: Callable[..., Awaitable[object] | object],
        arguments: tuple[Any, ...],
        within: Sequence[object],
    ) -> None:
        """Register one."""
        self._waiting.append(Callback(self.registered, outcome, function, arguments, within))
        self.registered += 1

    def lose(self, savepoint: object) -> None:
        """What was done within ``savepoint``, or the block, is undone."""
        self._end(Outcome.ROLLED_BACK, lambda callback: savepoint in callback.within)

    def settle(self, outcome: Outcome, numbers: Container[int] | None = None) -> None:
        """The fate is known, of those with ``numbers`` or of all: forget all but those that are to run."""
        self._end(outcome, lambda callback: numbers is None or callback.number in numbers)

    def _end(self, outcome: Outcome, is_settled: Callable[[Callback], bool]) -> None:
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            if not is_settled(callback):
                self._waiting.append(callback)
            elif callback.outcome is outcome:
                self._due.append(callback)

    def take_due(self) -> list[Callback]:
        """Those that are to run, each once, in the order of registration."""
        due, self._due = sorted(self._due, key=itemgetter(0)), []
        return due


async def run_callbacks(callbacks: Iterable[Callback]) -> list[BaseException]:
    """Run the callbacks in order, each whatever the others do; returns what they raised."""
    failures: list[BaseException] = []
    for callback in callbacks:
        try:
            result = callback.function(*callback.arguments)
            if isawaitable(result):
                await result
        except BaseException as error:
            if ends_the_task(error):
                raise
            if callback.outcome is Outcome.COMMITTED:
                add_note(error, "A callback of after_commit() has raised this: the work itself is committed.")
            failures.append(error)
    return failures
