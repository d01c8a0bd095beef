"""Where this code runs: the loop and the task, and a task of its own, each by the cheapest way there is."""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# The loop that runs here, or None, where the public get_running_loop() raises.
running_loop = asyncio._get_running_loop  # pyright: ignore[reportPrivateUsage]

# The task that runs here, or None. Before Python 3.12 asyncio's own costs more than what it does.
current_task: Callable[[], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else lambda: _tasks.get(running_loop())
)
_tasks: dict[Any, asyncio.Task[Any]] = getattr(asyncio.tasks, "_current_tasks", {})  # in no stub


def new_task(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task that runs ``work``; since Python 3.12 it begins at once, not with the next turn of the loop."""
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12) and loop.get_task_factory() is None:
        return asyncio.Task(work, loop=loop, eager_start=True)
    return loop.create_task(work)
