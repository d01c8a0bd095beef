"""Proof of law 11: every pair of cancels, and ten thousand scopes cancelled at random moments."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import anyio
import pytest
from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncEngine

from cancelling import MORE, SCENARIOS, cancellation, on_engine, sweep
from scoped_async import scope
from watch import Item, Proxy, one_connection, out, pool_of_one, schema, silence

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1200)]
PAIRS = [("task", "inner"), ("inner", "task"), ("inner", "outer")]


@pytest.fixture
async def engine_factory(postgres_url: str) -> AsyncIterator[Callable[[], AsyncEngine]]:
    async with schema(postgres_url) as name, silence():
        yield lambda: one_connection(postgres_url, name)


class TestEveryPair:
    """A second cancel at each await after the first: in the clean-up of the first, as a rule."""

    @pytest.mark.parametrize("pool", ["cold", "warm"])
    @pytest.mark.parametrize("scenario", SCENARIOS)
    async def test_by_the_task(
        self, engine_factory: Callable[[], AsyncEngine], scenario: str, pool: str
    ) -> None:
        unit = on_engine(SCENARIOS[scenario])
        assert await cancellation.sweep(engine_factory, unit, warm=pool == "warm", cancels=2) == []

    @pytest.mark.parametrize("scenario", MORE)
    async def test_by_the_task_in_longer_units(
        self, engine_factory: Callable[[], AsyncEngine], scenario: str
    ) -> None:
        assert await cancellation.sweep(engine_factory, on_engine(MORE[scenario]), warm=True, cancels=2) == []

    @pytest.mark.parametrize("by", PAIRS, ids=" then ".join)
    @pytest.mark.parametrize("scenario", SCENARIOS)
    async def test_by_scopes_of_anyio(
        self, engine_factory: Callable[[], AsyncEngine], scenario: str, by: tuple[str, str]
    ) -> None:
        assert await sweep(engine_factory, SCENARIOS[scenario], by, warm=True) == []


class TestAtRandomMoments:
    """Ten thousand scopes, each writing two rows: none leaves a connection out, and no row stands alone."""

    SCOPES = 10_000
    WORKERS = 4

    @pytest.mark.parametrize("by", ["Task.cancel", "anyio.move_on_after"])
    async def test_cancelled(self, postgres_url: str, by: str) -> None:
        seed = random.randrange(2**32)
        rounds = self.SCOPES // 2 // self.WORKERS
        workers = [
            self.worker(postgres_url, by, random.Random(seed + n), rounds) for n in range(self.WORKERS)
        ]
        counts = [sum(column) for column in zip(*await asyncio.gather(*workers), strict=True)]
        print(f"\n{by}: {counts[0]} cancelled, {counts[1]} left in time (seed {seed})")
        assert sum(counts) == self.SCOPES // 2
        assert min(counts) > sum(counts) / 4, (
            "the moments are spread over the whole life of a scope, and beyond"
        )

    async def worker(self, url: str, by: str, moments: random.Random, rounds: int) -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        cancelled = 0
        longest = 0.01  # finds by itself to where every other scope is left in time
        # While it asks for TLS, a cancelled asyncpg.connect() leaves an exception that nobody retrieves.
        async with pool_of_one(url, connect_args={"ssl": False}) as (engine, Session):

            async def unit(number: int) -> None:
                async with scope(commit=True):
                    await Session.execute(insert(Item).values(name=f"{number} left"))
                    await Session.execute(insert(Item).values(name=f"{number} right"))

            for number in range(rounds):
                moment = moments.uniform(0, longest)
                if by == "Task.cancel":
                    task = asyncio.create_task(unit(number))
                    timer = loop.call_later(moment, task.cancel)
                    await asyncio.wait([task])
                    timer.cancel()
                    was_cancelled = task.cancelled()
                    if not was_cancelled:
                        task.result()
                else:
                    with anyio.move_on_after(moment) as deadline:
                        await unit(number)
                    was_cancelled = deadline.cancelled_caught
                assert out(engine) == 0
                cancelled += was_cancelled
                longest *= 1.02 if was_cancelled else 0.98
            await self.assert_whole(Session)
        return cancelled, rounds - cancelled

    async def assert_whole(self, Session: Proxy) -> None:
        number = func.split_part(Item.name, " ", 1)
        alone = select(number).group_by(number).having(func.count() != 2)
        async with scope():
            assert (await Session.scalars(alone)).all() == []
            assert await Session.scalar(select(func.count()).select_from(Item))
