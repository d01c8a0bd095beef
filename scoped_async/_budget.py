"""The time that a clean-up may take, and what happens once it is up."""

import asyncio
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from ._running import current_task

T = TypeVar("T")


class Deadlines:
    """The deadlines of one event loop, with one timer for all: each with its own would cost a commit more."""

    __slots__ = ("__weakref__", "_set", "_timer", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._set: dict[Callable[[], None], tuple[float, Context]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def set(self, expire: Callable[[], None], when: float) -> None:
        """Call ``expire`` at ``when``, of the loop's time, if it is not dropped before."""
        self._set[expire] = when, copy_context()
        if self._timer is None or when < self._timer.when():
            self._arm(when)

    def drop(self, expire: Callable[[], None]) -> None:
        """Forget ``expire``; the timer stays, for those that come next."""
        self._set.pop(expire, None)

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Without a context, which would be kept as long as the timer.
        self._timer = self.loop.call_at(when, self._ring, context=Context())

    def _ring(self) -> None:
        now, self._timer = self.loop.time(), None
        try:
            for expire, (when, context) in list(self._set.items()):
                if when <= now:
                    del self._set[expire]
                    context.run(expire)
        finally:
            if self._set:
                self._arm(min(when for when, _ in self._set.values()))


# They reach their loop, so that they are kept by the timer and by whoever waits alone.
_deadlines: "WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Deadlines]]" = WeakKeyDictionary()
_last: Callable[[], Deadlines | None] = lambda: None  # noqa: E731  # as the reference that takes its place


def deadlines_of(loop: asyncio.AbstractEventLoop) -> Deadlines:
    """Those of ``loop``."""
    global _last
    last = _last()
    if last is None or last.loop is not loop:
        reference = _deadlines.get(loop)
        last = None if reference is None else reference()
        if last is None:
            last = Deadlines(loop)
            _deadlines[loop] = weakref.ref(last)
        _last = weakref.ref(last)
    return last


class OutOfTimeError(Exception):
    """The time of a clean-up is up; its cause is what the work made of that."""


class Budget:
    """The seconds that the waits of one clean-up may take together; ``None``: no bound."""

    __slots__ = ("remaining",)

    def __init__(self, seconds: float | None) -> None:
        self.remaining = seconds

    async def spend(self, work: Coroutine[Any, Any, T], abort: Callable[[], None]) -> T:
        """Await ``work`` in the time that is left; past it as ``within()``."""
        if self.remaining is None:
            return await work
        time = asyncio.get_running_loop().time
        started = time()
        try:
            return await within(self.remaining, work, abort)
        finally:
            self.remaining = max(0.0, self.remaining - (time() - started))


async def within(seconds: float | None, work: Coroutine[Any, Any, T], abort: Callable[[], None]) -> T:
    """Await ``work``; once the time is up call ``abort``, cancel it, and raise ``OutOfTimeError``.

    ``abort`` comes first, so that nothing that is cancelled can wait for a silent peer once more.
    """
    if seconds is None:
        return await work
    task = current_task()
    assert task is not None
    loop, cancelling = task.get_loop(), task.cancelling()
    deadlines = deadlines_of(loop)
    out_of_time = False

    def expire() -> None:
        nonlocal out_of_time
        out_of_time = True
        abort()
        task.cancel()

    deadlines.set(expire, loop.time() + seconds)
    try:
        result = await work
    except BaseException as error:
        if not out_of_time:
            raise
        # As asyncio.timeout() does: ours is taken back, and another's cancellation stays one.
        if task.uncancel() > cancelling and isinstance(error, asyncio.CancelledError):
            raise
        raise OutOfTimeError from error
    finally:
        deadlines.drop(expire)
    if out_of_time:  # the work has swallowed its cancellation
        task.uncancel()
        raise OutOfTimeError
    return result
