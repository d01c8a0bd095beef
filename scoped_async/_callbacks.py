"""The callbacks of a unit of work: registered within savepoints, run once when their fate is known."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum, auto
from inspect import isawaitable
from itertools import count
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

    __slots__ = ("_due", "_numbers", "_waiting")

    def __init__(self) -> None:
        self._numbers = count()
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
        self._waiting.append(Callback(next(self._numbers), outcome, function, arguments, within))

    def lose(self, savepoint: object) -> None:
        """What was done within ``savepoint``, or the block, is undone."""
        lost = [callback for callback in self._waiting if savepoint in callback.within]
        if lost:
            self._waiting = [callback for callback in self._waiting if savepoint not in callback.within]
            self._due += [callback for callback in lost if callback.outcome is Outcome.ROLLED_BACK]

    def settle(self, outcome: Outcome) -> None:
        """The fate of the whole unit is known: forget all but those that are to run."""
        self._due += [callback for callback in self._waiting if callback.outcome is outcome]
        self._waiting = []

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
