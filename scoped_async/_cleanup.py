"""Run a clean-up to its end, through cancellations and within its time, and raise what failed in it."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def run_to_completion(
    work: Coroutine[Any, Any, T],
) -> tuple[asyncio.Task[T], asyncio.CancelledError | None]:
    """Run ``work`` in a task of its own and wait for its end, however often the caller is cancelled.

    Returns the task, which is done, and the last cancellation that arrived meanwhile, if any: it is the
    caller's to raise.
    """
    task = asyncio.create_task(work)
    cancellation = None
    # Without the shield, a cancelled anyio scope cancels this wait again at every turn of the loop.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError as error:
                cancellation = error
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
        task = asyncio.current_task()
        return task is None or task.cancelling() > 0
    return isinstance(error, GeneratorExit)  # the loop was closed over the task


class OutOfTimeError(Exception):
    """The time of a clean-up is up; its cause is what the work made of that."""


class Budget:
    """The seconds that the waits of one clean-up may take together; ``None``: no bound."""

    __slots__ = ("remaining",)

    def __init__(self, seconds: float | None) -> None:
        self.remaining = seconds

    async def spend(self, work: Coroutine[Any, Any, T], abort: Callable[[], None]) -> T:
        """Await ``work``; once the time is up call ``abort``, cancel it, and raise ``OutOfTimeError``.

        ``abort`` comes first, so that nothing that is cancelled can wait for a silent peer once more.
        """
        if self.remaining is None:
            return await work
        loop = asyncio.get_running_loop()
        started = loop.time()
        timeout = asyncio.timeout(None)
        out_of_time = False

        def expire() -> None:
            nonlocal out_of_time
            out_of_time = True
            abort()
            timeout.reschedule(loop.time())

        timer = loop.call_later(self.remaining, expire)
        try:
            async with timeout:
                return await work
        except BaseException as error:
            if out_of_time:
                raise OutOfTimeError from error
            raise
        finally:
            timer.cancel()
            self.remaining = max(0.0, self.remaining - (loop.time() - started))


def add_notes(error: BaseException, failures: Sequence[BaseException]) -> None:
    """Note on ``error``, which is on its way, what else failed while its scope was left."""
    for failure in failures:
        if failure is not error:
            error.add_note(f"While the scope was left, this failed too: {failure!r}")


def one_of(failures: Sequence[BaseException], message: str) -> BaseException:
    """The only failure, or several as one group."""
    return failures[0] if len(failures) == 1 else BaseExceptionGroup(message, failures)


def one_error(failures: Sequence[BaseException], message: str) -> BaseException | None:
    """The only failure, several as one group, or nothing."""
    return one_of(failures, message) if failures else None
