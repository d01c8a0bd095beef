"""What may be done in a frame: each refusal with its own sentence."""

from threading import current_thread

from ._frame import CLOSING, Frame, Owner, Unit
from ._running import running_loop
from .exceptions import (
    ConcurrentUseError,
    ForeignThreadError,
    NoScopeError,
    RollbackOnlyError,
    ScopeClosedError,
    ScopeError,
)


def usable_unit(frame: Frame, what: str) -> Unit:
    """What operations in ``frame`` use.

    Raises `NoScopeError`, `ForeignThreadError` or `ScopeClosedError`; ``what`` was asked for.
    """
    owner, unit = frame.owner, frame.unit_in_use()
    if owner is None or unit is None or owner.loop is not running_loop():
        raise refusal(frame, what)
    return unit


def refusal(frame: Frame, what: str) -> ScopeError:
    """Why there is nothing that operations in ``frame`` could use."""
    owner = frame.owner
    if owner is None:
        return NoScopeError(
            f"{what} needs a scope, and none is current here. Open one: `async with scope(): ...`, or "
            "decorate the coroutine function with `@scope()`. A thread that was not started by "
            "asyncio.to_thread or anyio.to_thread does not inherit the scope either."
        )
    if frame.unit_in_use() is None:
        return ScopeClosedError(closed_message(owner, what))
    return ForeignThreadError(foreign_message(owner, what))


def closed_message(owner: Owner, what: str) -> str:
    """The sentence of `ScopeClosedError`."""
    state = "is closing" if owner.unit is CLOSING else "is closed"
    return (
        f"{what}: the scope {owner.name} {state}: it was opened at {owner.opened_at} and its block has "
        "ended. Whatever outlives a scope (a background task, a late child, a stream) needs one of its own. "
        "Open a scope of your own: `async with scope(): ...`."
    )


def foreign_message(owner: Owner, what: str) -> str:
    """The sentence of `ForeignThreadError`."""
    loop = running_loop()
    where = f"thread {current_thread().name!r}, " + (
        "which runs no event loop" if loop is None else f"event loop {loop!r}"
    )
    return (
        f"{what}: the scope {owner.name}, opened at {owner.opened_at}, belongs to another event loop, "
        f"{owner.loop!r}; this is {where}. Make the function async (`async def`; for FastAPI's "
        "`Depends(Session)` write an `async def` that returns `Session()`), or hand the call back to the "
        "loop: `anyio.from_thread.run(...)`."
    )


def refuse_in_block(unit: Unit, what: str) -> None:
    """Raise `ScopeError` while a joined or nested block is open, in whichever task."""
    if unit.blocks:
        raise ScopeError(
            f"{what} inside a joined or nested block would end work that is not the block's own. To fail, "
            "raise an exception or set `current_scope().rollback_only = True`; to commit on your own, open "
            "`scope(commit=True)`."
        )


def refuse_in_savepoint(unit: Unit, what: str) -> None:
    """Raise `ScopeError` while a savepoint is open, in whichever task."""
    if any(savepoint.is_open for savepoint in unit.savepoints):
        raise ScopeError(
            f"{what} inside a nested block or begin_nested() would lose the savepoint. Leave it first."
        )


def refuse_marked(unit: Unit, owner: Owner) -> None:
    """Raise `RollbackOnlyError` when the unit is marked."""
    if unit.marked:
        raise rollback_only_error(owner, unit.failure)


def rollback_only_error(owner: Owner, failure: BaseException | None) -> RollbackOnlyError:
    """The error of a commit of marked work; its cause is what a joined block failed with."""
    error = RollbackOnlyError(
        f"The scope {owner.name}, opened at {owner.opened_at}, can only be rolled back: "
        + ("rollback_only was set" if failure is None else f"a block that joined it failed with {failure!r}")
        + ". Nothing was committed. Let the exception of the block out, or start over: "
        "`await current_scope().rollback()`."
    )
    error.__cause__ = failure
    return error


def refuse_sibling(unit: Unit, frame: Frame) -> None:
    """Raise `ConcurrentUseError` when a savepoint opened in ``frame`` would not stand on the innermost."""
    while unit.savepoints and not unit.savepoints[-1].is_open:
        unit.savepoints.pop()
    if not unit.savepoints or unit.savepoints[-1].stands_around(frame):
        return
    raise ConcurrentUseError(
        "A savepoint cannot be set here: another task has one open in the same scope, and savepoints are a "
        "stack. Let the tasks take turns, or give each a scope of its own: `async with scope(): ...`."
    )
