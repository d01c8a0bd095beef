"""Many tasks at once: the time and the memory of each, by what the task does and by the group it runs in."""

import asyncio
import gc
import tracemalloc
from collections.abc import Callable, Coroutine
from itertools import groupby, product
from operator import itemgetter
from time import perf_counter
from typing import Any

import anyio

from scoped_async import create_task_group, scope

from .core import HandWritten, Session
from .database import SELECT, Entry, engine
from .timing import Track, in_turn, summary

Child = Callable[[asyncio.Event], Coroutine[Any, Any, None]]
Run = Callable[[Child, int, asyncio.Event], Coroutine[Any, Any, None]]

# -- what a task does: it waits for the others in the middle of it, so that all are open at once


async def nothing(all_open: asyncio.Event) -> None:
    await all_open.wait()


async def empty_async_with(all_open: asyncio.Event) -> None:
    async with HandWritten():
        await all_open.wait()


async def unused_scope(all_open: asyncio.Event) -> None:
    async with scope():
        await all_open.wait()


async def touched_scope(all_open: asyncio.Event) -> None:
    async with scope():
        Session()
        await all_open.wait()


async def select(all_open: asyncio.Event) -> None:
    async with scope():
        await all_open.wait()
        await Session.scalar(SELECT)


async def insert(all_open: asyncio.Event) -> None:
    async with scope(commit=True):
        await all_open.wait()
        Session.add(Entry(amount=1))


# -- the groups


async def in_asyncio(child: Child, count: int, all_open: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(child(all_open))
        await _open(all_open)


async def in_anyio(child: Child, count: int, all_open: asyncio.Event) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(count):
            group.start_soon(child, all_open)
        await _open(all_open)


async def in_ours(child: Child, count: int, all_open: asyncio.Event) -> None:
    async with create_task_group() as group:
        for _ in range(count):
            group.start_soon(child, all_open)
        await _open(all_open)


async def _open(all_open: asyncio.Event) -> None:
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    all_open.set()


CHILDREN: dict[str, Child] = {
    "nothing": nothing,
    "empty async with": empty_async_with,
    "unused scope": unused_scope,
    "touched scope": touched_scope,
    "select": select,
    "insert": insert,
}
GROUPS: dict[str, Run] = {
    "asyncio.TaskGroup": in_asyncio,
    "anyio task group": in_anyio,
    "create_task_group": in_ours,  # which opens the scope itself, so its children only touch
}


async def wait_and_touch(all_open: asyncio.Event) -> None:
    Session()
    await all_open.wait()


async def wait_and_select(all_open: asyncio.Event) -> None:
    await all_open.wait()
    await Session.scalar(SELECT)


async def wait_and_insert(all_open: asyncio.Event) -> None:
    await all_open.wait()
    Session.add(Entry(amount=1))
    await Session.commit()


IN_OURS: dict[str, Child] = {
    "unused scope": nothing,
    "touched scope": wait_and_touch,
    "select": wait_and_select,
    "insert": wait_and_insert,
}


def _function(child: str, group: str) -> Child:
    return IN_OURS[child] if group == "create_task_group" else CHILDREN[child]


def rows(largest: int, largest_on_database: int) -> list[tuple[str, str, int]]:
    """What is measured: the child, the group, and how many at once; the same number stands together."""
    counts = [10**power for power in range(6) if 10**power <= largest]
    found: list[tuple[str, str, int]] = []
    for count, child, group in product(counts, CHILDREN, GROUPS):
        if group == "create_task_group" and child not in IN_OURS:
            continue
        if child in ("select", "insert") and count > largest_on_database:
            continue
        if child == "touched scope" and count > 10_000:  # 100,000 sessions at once are a gigabyte
            continue
        found.append((child, group, count))
    return found


async def _time(child: Child, run: Run, count: int) -> float:
    """Seconds per task; a few tasks are run several times, since one time of so little says nothing."""
    times = max(1, 30 // count)
    gc.collect()
    start = perf_counter()
    for _ in range(times):
        await run(child, count, asyncio.Event())
    return (perf_counter() - start) / (times * count)


async def _memory(child: Child, run: Run, count: int) -> float:
    """Bytes per task when all are open."""
    gc.collect()
    tracemalloc.start()
    try:
        await run(child, count, asyncio.Event())
        return tracemalloc.get_traced_memory()[1] / count
    finally:
        tracemalloc.stop()


def at_once(
    *, largest: int, largest_on_database: int, largest_for_memory: int, rounds: int, track: Track
) -> list[dict[str, Any]]:
    """Measure all rows; those with the same count take turns."""

    async def run() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        wanted = rows(largest, largest_on_database)
        times: dict[tuple[str, str, int], list[float]] = {row: [] for row in wanted}
        for number in track(range(rounds), description="Tasks at once"):
            for count, together in groupby(wanted, key=itemgetter(2)):
                if count > 10_000 and number >= 3:
                    continue
                for row in in_turn(list(together), number):
                    times[row].append(await _time(_function(*row[:2]), GROUPS[row[1]], count))
        for row in track(wanted, description="Memory of tasks at once"):
            child, group, count = row
            alone = times["nothing", "asyncio.TaskGroup", count]
            size = None
            if count <= largest_for_memory and child not in ("select", "insert"):
                size = await _memory(_function(child, group), GROUPS[group], count)
            found.append(
                {"child": child, "group": group, "count": count, "bytes": size, **summary(times[row], alone)}
            )
        await engine.dispose()
        return found

    return asyncio.run(run())


def fan_out(counts: tuple[int, int], track: Track) -> dict[str, float]:
    """Seconds for ``counts`` inserts by ``create_task_group(limit=5, commit=True)`` on a pool of 5."""

    async def insert_one() -> None:
        Session.add(Entry(amount=1))

    async def run() -> dict[str, float]:
        found: dict[str, float] = {}
        for count in track(counts, description="Fan-out"):
            start = perf_counter()
            async with create_task_group(limit=5, commit=True) as group:
                for _ in range(count):
                    group.start_soon(insert_one)
            found[str(count)] = perf_counter() - start
        await engine.dispose()
        return found

    return asyncio.run(run())
