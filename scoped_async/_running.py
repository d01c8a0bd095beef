"""Where this code runs: the loop and the task, each by the cheapest way there is."""

import asyncio
import sys
from typing import Any

# The loop that runs here, or None, where the public get_running_loop() raises.
running_loop = asyncio._get_running_loop  # pyright: ignore[reportPrivateUsage]

if sys.version_info >= (3, 12):
    from asyncio import current_task as current_task
else:
    _tasks: dict[Any, asyncio.Task[Any]] = asyncio.tasks._current_tasks  # type: ignore[attr-defined]  # in no stub

    def current_task() -> "asyncio.Task[Any] | None":
        """The task that runs here: what asyncio's own does, which costs more before Python 3.12."""
        return _tasks.get(running_loop())
