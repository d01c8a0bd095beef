"""Leave a scope: close in place what needs no more, and have the rest ended by one helper task."""

import asyncio

from ._checks import foreign_message, rollback_only_error
from ._cleanup import run_to_completion
from ._ending import Ending
from ._frame import CLOSING, Frame, Owner, Unit, current, running_loop
from .exceptions import ForeignThreadError, ScopeError


async def end(
    scope: Owner, unit: Unit, exc: BaseException | None, *, commit: bool, close_timeout: float | None
) -> tuple[list[BaseException], asyncio.CancelledError | None]:
    """End what ``scope`` held; returns what failed, and the cancellation that arrived meanwhile.

    ``exc``: the exception of the body. ``commit``: whether the scope commits on a clean exit.
    """
    if scope.loop is not running_loop():
        for held in unit.values():
            held.abort()
        return [ForeignThreadError(foreign_message(scope, "Leaving the scope"))], None
    for held in unit.values():
        # The helper of an ending in the body may have been cancelled before it could take over.
        if held.busy is not None and held.busy is asyncio.current_task():
            held.give_up()
    if not unit.must_conclude and all(held.is_idle for held in unit.values()):
        return close_in_place(unit), None
    work = conclude_exit(scope, unit, exc, commit=commit and exc is None, close_timeout=close_timeout)
    task, cancellation = await run_to_completion(work)
    if task.cancelled():  # the loop is shutting down, and the work may not even have begun
        for held in unit.values():
            held.abort()
        return [], cancellation or asyncio.CancelledError()
    return task.result(), cancellation


def close_in_place(unit: Unit) -> list[BaseException]:
    """Close what needs no I/O, newest first; returns what failed."""
    failures: list[BaseException] = []
    for held in reversed(unit.values()):
        try:
            held.close_in_place()
        except BaseException as error:
            failures.append(error)
    return failures


async def conclude_exit(
    scope: Owner, unit: Unit, exc: BaseException | None, *, commit: bool, close_timeout: float | None
) -> list[BaseException]:
    """What the helper task does."""
    frame = Exit(scope, unit)
    current.set(frame)
    ending = Ending(unit, unit.callbacks, scope_name=scope.name, close_timeout=close_timeout)
    if commit and unit.failure is not None:
        ending.failures.append(rollback_only_error(scope, unit.failure))
    elif commit and unit.blocks:
        ending.failures.append(
            ScopeError(
                f"The scope {scope.name}, opened at {scope.opened_at}, was left while a block that joined it "
                "or nests in it is still open in another task, so it was rolled back. Await that task first."
            )
        )
    refused = bool(ending.failures) or unit.rollback_only
    rolled_back = exc is not None or refused or unit.failure is not None
    try:
        await ending.conclude(commit=commit and not refused, rolled_back=rolled_back)
        frame.unit = CLOSING  # what a close hook touched now would outlive the scope
        await ending.close()
    except asyncio.CancelledError:  # the loop is shutting down: nothing can be waited for any more
        ending.abort()
        raise
    return ending.failures


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

    def unit_in_use(self) -> Unit | None:
        return self.unit if self.scope.unit is CLOSING and self.unit is not CLOSING else None
