"""Memory, by tracemalloc in a process of its own: per open scope, and what is left when all are closed."""

import asyncio
import gc
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any

from .core import CORE, TaskSession, nothing_at_once, touched_at_once, unused_at_once
from .database import sessions as make_session

_ROOT = Path(__file__).parents[1]


def measure(*, scopes: int, sessions: int) -> dict[str, float]:
    """Bytes, measured in another process after ``scopes`` unused and ``sessions`` touched scopes."""
    command = [sys.executable, "-m", "benchmarks.memory", str(scopes), str(sessions)]
    done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _traced() -> int:
    gc.collect()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _open(function: Callable[[], Any], count: int) -> float:
    """Bytes for each of ``count`` calls in the middle of ``function``, each in a Context of its own."""
    for count_now in (10, count):  # what is made once is made by the first ten
        before = _traced()
        calls = [(copy_context(), function()) for _ in range(count_now)]
        for context, call in calls:
            context.run(call.send, None)
        size = (_traced() - before) / count_now
        for context, call in calls:
            context.run(call.close)
    return size


async def _session_at_once() -> None:
    session = make_session()
    await asyncio.sleep(0)
    del session


async def _retained(loop: Callable[[int], Awaitable[None]], count: int) -> float:
    await loop(min(count, 10_000))
    before = _traced()
    await loop(count)
    return (_traced() - before) / count


async def _tasks_without_remove(count: int) -> None:
    async def touch() -> None:
        TaskSession()

    for _ in range(count):
        await asyncio.create_task(touch())


async def _measure(scopes: int, sessions: int) -> dict[str, float]:
    tracemalloc.start()
    nothing = _open(nothing_at_once, 10_000)
    return {
        "open: unused scope": _open(unused_at_once, 10_000) - nothing,
        "open: touched scope": _open(touched_at_once, 1_000) - nothing,
        "open: session alone": _open(_session_at_once, 1_000) - nothing,
        "retained: unused scope": await _retained(CORE["unused: scope"], scopes),
        "retained: touched scope": await _retained(CORE["touched: scope"], sessions),
        "retained: async_scoped_session without remove()": await _retained(
            _tasks_without_remove, min(sessions, 2_000)
        ),
        "scopes": scopes,
        "sessions": sessions,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(*map(int, sys.argv[1:])))))
