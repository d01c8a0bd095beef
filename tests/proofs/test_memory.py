"""Proof of law 13 at length: 100,000 scopes with a session leave nothing behind."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from scoped_async import AsyncScopedSession, scope

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1200)]
Proxy = AsyncScopedSession[AsyncSession]


@pytest.fixture
async def Session(postgres_url: str) -> AsyncIterator[Proxy]:
    engine = create_async_engine(postgres_url, pool_size=20, max_overflow=0, pool_timeout=300)
    yield AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))
    await engine.dispose()


async def assert_nothing_is_left(run: Callable[[int], Awaitable[None]], *, warm_up: int, count: int) -> None:
    """The traced memory after ``count`` scopes is what it was before, within 100 kB.

    That is less than a byte for each of 100,000 scopes, and closer than 1 % of what the process holds.
    """
    tracemalloc.start()
    try:
        await run(warm_up)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        await run(count)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    print(f"traced after {warm_up} scopes: {before} bytes, after {count} more: {after} bytes")
    assert abs(after - before) < 100_000


async def unit(Session: Proxy, *, sql: bool) -> None:
    async with scope(commit=True):
        if sql:
            await Session.execute(text("SELECT 1"))
        Session.expire_all()


@pytest.mark.parametrize(("sql", "count"), [(False, 100_000), (True, 10_000)])
async def test_one_after_the_other(sql: bool, count: int, Session: Proxy) -> None:
    async def run(count: int) -> None:
        for _ in range(count):
            await unit(Session, sql=sql)

    await assert_nothing_is_left(run, warm_up=1_000, count=count)


@pytest.mark.parametrize(("sql", "count"), [(False, 100_000), (True, 10_000)])
async def test_a_thousand_at_a_time(sql: bool, count: int, Session: Proxy) -> None:
    async def run(count: int) -> None:
        for _ in range(0, count, 1_000):
            await asyncio.gather(*(unit(Session, sql=sql) for _ in range(1_000)))

    await assert_nothing_is_left(run, warm_up=2_000, count=count)
