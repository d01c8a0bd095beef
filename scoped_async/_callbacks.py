"""The callbacks of a unit of work: registered by level of savepoint, run once when their fate is known."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import Enum, auto
from inspect import isawaitable
from typing import Any, NamedTuple

from ._cleanup import add_note, ends_the_task


class Outcome(Enum):
    """What became of the work since the last outcome."""

    COMMITTED = auto()
    ROLLED_BACK = auto()
    UNKNOWN = auto()


class Callback(NamedTuple):
    """A function to run when the work it belongs to has had ``outcome``."""

    outcome: Outcome
    function: Callable[..., Awaitable[object] | object]
    arguments: tuple[Any, ...]


class Level(list[Callback]):
    """Those that were registered inside one savepoint."""

    savepoints: Sequence[object] = ()
    """What the savepoint is on the sessions: their transactions."""


class Callbacks:
    """The callbacks of one unit: the first level is the unit's own, each open savepoint adds one."""

    __slots__ = ("due", "levels")

    def __init__(self) -> None:
        self.levels = [Level()]
        self.due: list[Callback] = []
        """Those whose fate became known where nothing could be awaited; they run with the next."""

    def __bool__(self) -> bool:
        return bool(self.due) or any(self.levels)

    def add(self, callback: Callback) -> None:
        """Register with the innermost savepoint, since that is what decides the work's fate."""
        self.levels[-1].append(callback)

    def open(self, savepoints: Sequence[object]) -> Level:
        """Begin a savepoint's level."""
        level = Level()
        level.savepoints = savepoints
        self.levels.append(level)
        return level

    def reach(self, savepoints: Iterable[object]) -> None:
        """Begin a level for each of ``savepoints``, the outermost first, that has none."""
        for savepoint in savepoints:
            if self._level_of(savepoint) is None:
                self.open([savepoint])

    def end(self, savepoint: object, outcome: Outcome) -> None:
        """A savepoint is ended where nothing can be awaited."""
        if (level := self._level_of(savepoint)) is not None:
            self.due += self.close(level, outcome)

    def close(self, level: Level, outcome: Outcome) -> list[Callback]:
        """End a savepoint's level: released to the one below, or rolled back with what stands above it.

        That may be of another session, so a release leaves it.
        """
        index = next((i for i, other in enumerate(self.levels) if other is level), None)
        if index is None:  # an outcome of the whole unit, or who ended the savepoint, has settled it
            return []
        if outcome is Outcome.COMMITTED:
            self.levels[index - 1].extend(self.levels.pop(index))
            return []
        ended = [callback for above in self.levels[index:] for callback in above]
        del self.levels[index:]
        return [callback for callback in ended if callback.outcome is outcome]

    def settle(self, outcome: Outcome) -> list[Callback]:
        """The fate of the whole unit is known: forget all callbacks and return those that are to run."""
        ended = [callback for level in self.levels for callback in level]
        self.levels[:] = [Level()]
        due, self.due = self.due, []
        return due + [callback for callback in ended if callback.outcome is outcome]

    def postpone(self, outcome: Outcome) -> None:
        """The fate of the whole unit is known where nothing can be awaited."""
        self.due = self.settle(outcome)

    def _level_of(self, savepoint: object) -> Level | None:
        return next((level for level in self.levels if savepoint in level.savepoints), None)


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
