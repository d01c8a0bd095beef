"""Units of work that are cancelled at each of their awaits in turn, and what must hold after each.

The awaits are those within SQLAlchemy, enumerated by its own ``sqlalchemy.testing.cancellation``: those of
the connect, of each statement, and of the helper tasks that end a scope.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import anyio
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.testing import cancellation as untyped

from scoped_async import AsyncScopedSession, create_task_group, current_scope, scope
from watch import Item, Proxy, answer, out

cancellation: Any = untyped

Scenario = Callable[[Proxy], Awaitable[None]]
SCENARIOS: dict[str, Scenario] = {}
"""Of each kind one."""
MORE: dict[str, Scenario] = {}
"""What the proofs sweep besides."""


def scenario(unit: Scenario) -> Scenario:
    SCENARIOS[unit.__name__] = unit
    return unit


def more(unit: Scenario) -> Scenario:
    MORE[unit.__name__] = unit
    return unit


def item() -> Item:
    return Item(name=secrets.token_hex(8))


@scenario
async def a_select(Session: Proxy) -> None:
    async with scope():
        await Session.scalar(select(1))


@scenario
async def a_commit(Session: Proxy) -> None:
    async with scope(commit=True):
        Session.add(item())


@scenario
async def nested_scopes(Session: Proxy) -> None:
    async with scope(commit=True):
        async with scope(commit=True):
            Session.add(item())
        await Session.scalar(select(1))


@scenario
async def a_body_that_raises(Session: Proxy) -> None:
    with suppress(LookupError):
        async with scope(commit=True):
            await Session.execute(insert(Item).values(name="lost"))
            raise LookupError


@scenario
async def remove(Session: Proxy) -> None:
    async with scope():
        await Session.scalar(select(1))
        await Session.remove()
        await Session.scalar(answer(2))
        await Session.remove()


@scenario
async def a_stream_left_half_read(Session: Proxy) -> None:
    async with scope():
        stream = await Session.stream(text("SELECT generate_series(1, 1000)"))
        await stream.fetchmany(60)
        await stream.fetchone()


@more
async def ends_within_the_body(Session: Proxy) -> None:
    async with scope() as current:
        Session.add(item())
        await Session.commit()
        Session.add(item())
        await current.commit()
        await Session.scalar(select(1))
        await Session.rollback()
        async with Session.begin():
            Session.add(item())
        await Session.scalar(select(1))
        await current.release()
        await Session.scalar(select(1))


@more
async def savepoints(Session: Proxy) -> None:
    async with scope(commit=True):
        async with Session.begin_nested():
            Session.add(item())
        async with scope(propagation="nested"):
            Session.add(item())
        with suppress(LookupError):
            async with scope(propagation="nested"):
                await Session.scalar(select(1))
                raise LookupError


@more
async def callbacks(Session: Proxy) -> None:
    async def again() -> None:
        await Session.scalar(answer(2))

    async with scope(commit=True):
        current_scope().after_commit(again)
        Session.add(item())


@more
async def children(Session: Proxy) -> None:
    async def child() -> None:
        Session.add(item())

    async with create_task_group(limit=1, commit=True) as group:
        group.create_task(child())
        group.create_task(child())


class LeftOut(BaseException):
    """A connection was out when the unit had been left."""


def on_engine(unit: Scenario) -> Callable[[AsyncEngine], Awaitable[None]]:
    """The scenario as SQLAlchemy's sweep wants it, with nothing out the moment that it is left."""

    async def run(engine: AsyncEngine) -> None:
        try:
            await unit(AsyncScopedSession(async_sessionmaker(engine)))
        finally:
            if still_out := out(engine):
                raise LeftOut(still_out)

    return run


async def sweep(
    engine_factory: Callable[[], AsyncEngine], unit: Scenario, by: Sequence[str], *, warm: bool
) -> list[str]:
    """Cancel the unit in each of these ways, one after the other, at each of its awaits.

    Returns what went wrong.
    """
    problems: list[str] = []

    async def from_(points: list[int]) -> None:
        ways = by[: len(points)]
        count, found = await cancel_at(engine_factory(), unit, points, ways, warm=warm)
        problems.extend(found)
        if len(points) < len(by):
            for point in range(points[-1] + 1 if points else 1, count + 1):
                await from_([*points, point])

    await from_([])
    return problems


async def cancel_at(
    engine: AsyncEngine, unit: Scenario, points: Sequence[int], by: Sequence[str], *, warm: bool
) -> tuple[int, list[str]]:
    """Cancel the unit at these awaits, by ``"task"``, or by the ``"inner"`` or ``"outer"`` scope of anyio.

    Returns how many awaits there were, and what went wrong.
    """
    run = on_engine(unit)
    with cancellation.connection_accounting(engine) as accounting:
        if warm:
            await run(engine)
        outer, inner = anyio.CancelScope(), anyio.CancelScope()
        with cancellation.await_points(tuple(points)) as awaits:

            async def cancelled() -> None:
                with outer, inner:
                    await run(engine)

            cancels: dict[str, Any] = {"outer": outer, "inner": inner}
            task = awaits.create_task(cancelled())
            awaits._task = OneAfterTheOther([cancels.get(way, task) for way in by])
            await asyncio.wait([task])
        problems = []
        error = None if task.cancelled() else task.exception()
        if error is not None:
            problems.append(f"it raised {error!r}")
        if "task" in by[: len(awaits.cancelled_at)] and not task.cancelled():
            problems.append("the cancellation was lost")
        accounting.record_lost_slots()
        await accounting.record_next_use(run, engine)
        await engine.dispose()
    message = "; ".join(problems + accounting.get_failure_messages())
    return awaits.count, [f"{unit.__name__} at {points} by {by}: {message}"] if message else []


class OneAfterTheOther:
    """Stands for the task that is cancelled: each time something else is."""

    def __init__(self, cancels: list[Any]) -> None:
        self.cancels = iter(cancels)

    def cancel(self) -> None:
        next(self.cancels).cancel()
