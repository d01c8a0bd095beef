"""Run a clean-up to its end, through cancellations, and raise what failed in it."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import anyio

from ._running import current_task

T = TypeVar("T")


async def run_to_completion(
    work: Coroutine[Any, Any, T],
) -> tuple[asyncio.Task[T], asyncio.CancelledError | None]:
    """Run ``work`` in a task of its own and wait for its end, however often the caller is cancelled.

    Returns the task, which is done, and the last cancellation that arrived meanwhile, if any: it is the
    caller's to raise.
    """
    loop = asyncio.get_running_loop()
    end: asyncio.Future[None] = loop.create_future()
    task: asyncio.Task[T] | None = None

    def tell(_: object = None) -> None:
        if not end.done():
            end.set_result(None)

    async def work_and_tell() -> T:
        if task is None:  # begun at once, by an eager task factory: on its caller's stack, in its `except`
            await asyncio.sleep(0)
        result = await work
        assert task is not None
        task.remove_done_callback(tell)
        tell()  # a turn of the loop before the task does
        return result

    task = loop.create_task(work_and_tell())
    task.add_done_callback(tell)
    cancellation = None
    try:
        await end
    except asyncio.CancelledError as error:
        cancellation = error
    if cancellation is not None:
        # Without the shield, a cancelled anyio scope cancels this wait again at every turn of the loop.
        with anyio.CancelScope(shield=True):
            while not task.done():
                end = loop.create_future()
                try:
                    await end
                except asyncio.CancelledError as error:
                    cancellation = error
    work.close()  # of a task that was cancelled before it began
    return task, cancellation


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """As ``run_to_completion``, for work in the middle of a body: a cancellation is raised afterwards."""
    task, cancellation = await run_to_completion(work)
    if cancellation is not None:
        if not task.cancelled() and (error := task.exception()) is not None:
            add_notes(cancellation, [error])
        raise cancellation
    return task.result()


def ends_the_task(error: BaseException) -> bool:
    """Whether ``error`` ends the running task, rather than being a failure of the step that raised it.

    A step may raise ``CancelledError`` of its own, when it awaits something that was cancelled, and
    ``SystemExit`` and the like: these come out when all the other steps are done.
    """
    if isinstance(error, asyncio.CancelledError):
        task = current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, GeneratorExit)  # the loop was closed over the task


async def error_of(step: Callable[[], Awaitable[None]]) -> BaseException | None:
    """What ``step`` raised, but for what ends the task, which goes on."""
    try:
        await step()
    except BaseException as error:
        if ends_the_task(error):
            raise
        return error
    return None


def add_notes(error: BaseException, failures: Sequence[BaseException]) -> None:
    """Note on ``error``, which is on its way, what else failed while its scope was left."""
    for failure in failures:
        if failure is not error:
            add_note(error, f"While the scope was left, this failed too: {failure!r}")


def add_note(error: BaseException, note: str) -> None:
    """Add a note to any exception, also one that has its own idea of notes."""
    try:
        BaseException.add_note(error, note)
    except TypeError:  # its __notes__ is no list
        error.__notes__ = [repr(error.__notes__), note]


_COMMITTED = "__scoped_async_committed__"


def mark_committed(error: BaseException) -> None:
    """Remember that part of the unit which ``error`` left was committed, so that it is not run again."""
    with suppress(AttributeError):  # of an exception that takes none
        setattr(error, _COMMITTED, True)


def is_marked_committed(error: BaseException) -> bool:
    """Whether `mark_committed` was told of it."""
    return getattr(error, _COMMITTED, False)


def first_of(*failures: BaseException | None) -> BaseException | None:
    """The first that is there; an exception may be falsy."""
    return next((failure for failure in failures if failure is not None), None)


def one_of(failures: Sequence[BaseException], message: str) -> BaseException:
    """The only failure, or several as one group."""
    return failures[0] if len(failures) == 1 else BaseExceptionGroup(message, failures)


def one_error(failures: Sequence[BaseException], message: str) -> BaseException | None:
    """The only failure, several as one group, or nothing."""
    return one_of(failures, message) if failures else None
