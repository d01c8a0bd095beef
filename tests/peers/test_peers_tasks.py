"""Whose session a task gets, and what many tasks make of one."""

import asyncio
from contextvars import copy_context

from cells import THEIR_WARNINGS, Bench, fate
from libraries import GetSession
from sqlalchemy import func, select, text

from entries import write
from watch import Gate, until

pytestmark = THEIR_WARNINGS


async def test_nobody_ends_it(bench: Bench) -> None:
    """Three tasks of a unit use their session, and none says that it is done."""
    async with bench.unit() as session:

        async def job() -> None:
            await (await session()).execute(text("SELECT 1"))

        for _ in range(3):
            await asyncio.create_task(job())
    bench.shows(f"{bench.out} connections lost" if bench.out else "closed with the unit")


async def test_child_task(bench: Bench) -> None:
    """A task asks for its session while its parent waits."""
    async with bench.unit() as session:

        async def info() -> dict[object, object]:
            return (await session()).info  # each session has a dictionary of its own

        parent, child = await info(), await asyncio.create_task(info())
    bench.shows("its parent's" if child is parent else "another one")


async def test_two_first_statements(bench: Bench) -> None:
    """Two tasks send the first statements of a unit at the same moment."""
    async with bench.unit() as session:
        outcome = await two_at_once(session)
    bench.shows(outcome)


async def test_two_later_statements(bench: Bench) -> None:
    """Two tasks send statements at the same moment, in a unit that has a connection already."""
    async with bench.unit() as session:
        await write(await session(), "a")
        outcome = await two_at_once(session)
    bench.shows(outcome)


async def two_at_once(session: GetSession) -> str:
    async def pid() -> int | None:
        return await (await session()).scalar(select(func.pg_backend_pid()).select_from(func.pg_sleep(0.1)))

    results = await asyncio.gather(pid(), pid(), return_exceptions=True)
    if errors := [result for result in results if isinstance(result, Exception)]:
        return " and ".join(f"`{type(error).__name__}`" for error in errors)
    return "one after the other" if len({*results}) == 1 else "two sessions"


async def test_left_in_another_context(bench: Bench) -> None:
    """A unit is entered in one task and left in another, as a fixture or a dependency may be."""
    unit = bench.unit()

    async def enter() -> None:
        await write(await (await unit.__aenter__())(), "a")

    await asyncio.create_task(enter(), context=copy_context())
    try:
        await asyncio.create_task(unit.__aexit__(None, None, None), context=copy_context())
    except Exception as error:
        bench.shows(f"`{type(error).__name__}`, {fate(await bench.stored(), bench.out)}")
    else:
        bench.shows(fate(await bench.stored(), bench.out))


async def test_cancelled_in_the_commit(bench: Bench, gate: Gate) -> None:
    """A task is cancelled twice while its COMMIT waits on the server; then that goes on."""
    await bench.shut_at_commit(gate.key)

    async def work() -> None:
        async with bench.unit() as session:
            await write(await session(), "a")

    task = asyncio.create_task(work())
    await gate.waiting()
    await cancel_twice(task)
    # One that ends before its outcome is known does so within some turns of the loop.
    await asyncio.wait([task], timeout=1)
    left = "before" if task.done() else "when"
    await gate.open()
    await asyncio.wait([task])
    assert task.cancelled()
    await until(lambda: bench.is_stored("a"))
    bench.shows(f"leaves {left} the outcome is known")


async def test_cancelled_in_the_rollback(bench: Bench) -> None:
    """A unit has failed and is cancelled twice while the line to the server is silent."""
    failed = asyncio.Event()

    async def work() -> None:
        async with bench.unit() as session:
            await write(await session(), "a")
            bench.line.go_silent()
            failed.set()
            raise LookupError

    task = asyncio.create_task(work())
    out: list[int] = []
    task.add_done_callback(lambda _: out.append(bench.out))
    await failed.wait()
    await cancel_twice(task)
    bench.line.speak()
    await asyncio.wait([task])
    swallowed = "" if task.cancelled() else ", the cancellation is swallowed"
    bench.shows(("still out" if out[0] else "back") + swallowed)


async def cancel_twice(task: asyncio.Task[None]) -> None:
    for _ in range(2):
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
