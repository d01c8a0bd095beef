"""Where this code runs: the loop and the task, each by the cheapest way there is."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

# The loop that runs here, or None, where the public get_running_loop() raises.
running_loop = asyncio._get_running_loop  # pyright: ignore[reportPrivateUsage]

# The task that runs here, or None. Before Python 3.12 asyncio's own costs more than what it does.
current_task: Callable[[], asyncio.Task[Any] | None] = (
    asyncio.current_task if sys.version_info >= (3, 12) else lambda: _tasks.get(running_loop())
)
_tasks: dict[Any, asyncio.Task[Any]] = getattr(asyncio.tasks, "_current_tasks", {})  # in no stub
