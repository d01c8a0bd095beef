"""Leave a scope: close in place what needs no more, and have the rest ended by one helper task."""

import asyncio
from collections.abc import Sequence

from ._checks import foreign_message
from ._cleanup import add_notes, mark_committed, one_of, run_to_completion
from ._ending import Ending
from ._frame import CLOSING, Frame, Owner, State, Unit
from ._held import abort_all
from ._running import current_task, running_loop
from .exceptions import ForeignThreadError, ScopeError


async def end(scope: Owner, exc: BaseException | None) -> BaseException | None:
    """End what ``scope`` holds; returns what is to be raised instead of ``exc``, the body's exception."""
    if isinstance(scope.unit, State):
        raise ScopeError(f"{scope!r} cannot be left: it was not entered, or it is left already.")
    unit, scope.unit = scope.unit.take(), CLOSING
    cancellation: asyncio.CancelledError | None = None
    try:
        failures = end_in_place(scope, unit)
        if failures is None:
            task, cancellation = await run_to_completion(Ending(scope, unit).run(Exit(scope, unit), exc))
            if task.cancelled():  # the loop is shutting down, and the work may not even have begun
                abort_all(unit.values())
                failures, cancellation = [], cancellation or asyncio.CancelledError()
            else:
                failures = task.result()
    except BaseException as error:  # the helper has not come to its end: the scope is left all the same
        abort_all(unit.values())
        failures = [error]
    for held in unit.values():
        held.let_go()
    unit.clear()
    if failures or cancellation is not None or exc is not None:
        return _raised(scope, unit, exc, cancellation, failures)
    return None


def _raised(
    scope: Owner,
    unit: Unit,
    exc: BaseException | None,
    cancellation: asyncio.CancelledError | None,
    failures: Sequence[BaseException],
) -> BaseException | None:
    """What is to be raised in the place of ``exc``, with a note of what else failed."""
    if unit.committed:
        for error in (exc, cancellation, *failures):
            if error is not None:
                mark_committed(error)
    if not failures:
        return cancellation
    if (on_its_way := cancellation or exc) is None:
        return one_of(failures, f"Leaving the scope {scope.name}, opened at {scope.opened_at}, failed")
    add_notes(on_its_way, failures)
    return cancellation


def end_in_place(scope: Owner, unit: Unit) -> list[BaseException] | None:
    """End what needs no I/O, and return what failed; ``None``, with nothing done, where more is needed."""
    if scope.loop is not running_loop():
        abort_all(unit.values())
        return [ForeignThreadError(foreign_message(scope, "Leaving the scope"))]
    idle = not unit.must_conclude
    for held in unit.values():
        # The helper of an ending in the body may have been cancelled before it could take over.
        if held.busy is not None and held.busy is current_task():
            held.give_up()
        idle = idle and held.is_idle
    return close_in_place(unit) if idle else None


def close_in_place(unit: Unit) -> list[BaseException]:
    """Close what needs no I/O, newest first; returns what failed."""
    failures: list[BaseException] = []
    for held in reversed(unit.values()):
        try:
            held.close_in_place()
        except BaseException as error:
            failures.append(error)
    return failures


class Exit(Frame):
    """What is current while a scope is left: its hooks and callbacks still find what the scope holds."""

    __slots__ = ("scope",)

    def __init__(self, scope: Owner, unit: Unit) -> None:
        self.scope = scope
        self.unit = unit

    @property
    def owner(self) -> Owner:
        return self.scope

    @property
    def outer(self) -> Frame:
        return self.scope.outer

    @property
    def is_open(self) -> bool:
        return self.scope.unit is CLOSING

    @property
    def marked(self) -> bool:
        return self.unit.marked

    def mark(self) -> None:
        self.unit.rollback_only = True

    def unit_in_use(self) -> Unit | None:
        return self.unit if self.scope.unit is CLOSING and self.unit is not CLOSING else None
