"""Where this code runs: the loop and the task, and a task of its own, each by the cheapest way there is."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from importlib import import_module
from typing import Any, TypeVar

T = TypeVar("T")

# The loop that runs here, or None, where the public get_running_loop() raises.
running_loop = asyncio._get_running_loop  # pyright: ignore[reportPrivateUsage]

# The task that runs here, or None. Before Python 3.12 asyncio's own costs more than what it does.
current_task: Callable[[], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else lambda: _tasks.get(running_loop())
)
_tasks: dict[Any, asyncio.Task[Any]] = getattr(asyncio.tasks, "_current_tasks", {})  # in no stub

_current_greenlet: Callable[[], Any] = import_module("greenlet").getcurrent  # has no types of its own
_is_beginning = False


def begun_task(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that runs ``work``; since Python 3.12 it has begun already, which saves a turn of the loop.

    But not within one that begins like that, so that no stack grows with each, nor in a greenlet of the
    caller, as greenback has them, which the rest of the work would not run in.
    """
    global _is_beginning
    in_its_own = _current_greenlet().parent is None
    if sys.version_info >= (3, 12) and in_its_own and not _is_beginning and loop.get_task_factory() is None:
        _is_beginning = True
        try:
            return asyncio.Task(work, loop=loop, eager_start=True)
        finally:
            _is_beginning = False
    return loop.create_task(work)
