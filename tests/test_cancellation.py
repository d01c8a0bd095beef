"""The cancellation oracle, and law 11: the exit survives a cancellation at every await.

SQLAlchemy's own sweep cancels a scenario at each await in turn, by the task; the same is done by scopes of
anyio. Pairs of cancels are a proof of their own.
"""

import asyncio
from collections.abc import AsyncIterator

import anyio
import pytest
from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from cancelling import SCENARIOS, cancellation, on_engine, sweep
from scoped_async import scope
from watch import PID, Gate, Item, Watched, names, one_connection, out, schema, shut_gate, silence


@pytest.fixture
async def schema_name(postgres_url: str) -> AsyncIterator[str]:
    async with schema(postgres_url) as name, silence():
        yield name


@pytest.mark.parametrize("pool", ["cold", "warm"])
@pytest.mark.parametrize("scenario", SCENARIOS)
class TestTheOracle:
    """After a cancel at any await: nothing out, nothing lost, nothing complains, and the same works again."""

    async def test_by_the_task(self, postgres_url: str, schema_name: str, scenario: str, pool: str) -> None:
        def engine() -> AsyncEngine:
            return one_connection(postgres_url, schema_name)

        problems = await cancellation.sweep(engine, on_engine(SCENARIOS[scenario]), warm=pool == "warm")
        assert problems == []

    async def test_by_a_scope_of_anyio(
        self, postgres_url: str, schema_name: str, scenario: str, pool: str
    ) -> None:
        def engine() -> AsyncEngine:
            return one_connection(postgres_url, schema_name)

        assert await sweep(engine, SCENARIOS[scenario], ["inner"], warm=pool == "warm") == []


class TestLaw11TheConnectionIsBackAndHealthy:
    """A healthy connection is handed back, one on which something runs is terminated."""

    @pytest.mark.parametrize("by", ["task", "anyio"])
    async def test_cancelled_between_statements(self, watched: Watched, by: str) -> None:
        engine, Session = watched
        pids: list[int | None] = []

        async def work() -> None:
            with anyio.CancelScope() as cancel_scope:
                scopes.append(cancel_scope)
                async with scope(commit=True):
                    await Session.execute(insert(Item).values(name="lost"))
                    pids.append(await Session.scalar(PID))
                    ready.set()
                    await asyncio.Event().wait()
            assert out(engine) == 0

        scopes: list[anyio.CancelScope] = []
        ready = asyncio.Event()
        task = asyncio.create_task(work())
        await ready.wait()
        if by == "anyio":
            scopes[0].cancel()
            await task
        else:
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert out(engine) == 0
        async with scope():
            assert await Session.scalar(PID) == pids[0]
        assert await names(Session) == []

    async def test_cancelled_within_a_statement(self, watched: Watched, postgres_url: str) -> None:
        engine, Session = watched

        async def work(gate: Gate) -> None:
            async with scope(commit=True):
                await Session.execute(insert(Item).values(name="lost"))
                await Session.scalar(gate.passing())

        async with shut_gate(postgres_url) as gate:
            task = asyncio.create_task(work(gate))
            pid = await gate.waiting()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert out(engine) == 0
            async with scope():
                assert await Session.scalar(PID) != pid
        assert await names(Session) == []

    @pytest.mark.parametrize("cancels", [1, 2, 5])
    async def test_cancelled_while_it_is_left(self, watched: Watched, cancels: int) -> None:
        engine, Session = watched

        async def work() -> None:
            async with scope():
                pids.append(await Session.scalar(PID))
                left.set()

        pids: list[int | None] = []
        left = asyncio.Event()
        task = asyncio.create_task(work())
        await left.wait()
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        assert out(engine) == 0
        async with scope():
            assert await Session.scalar(PID) == pids[0]
            assert await Session.scalar(select(1)) == 1
