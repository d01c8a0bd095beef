"""Law 16: `limit` bounds how many children hold a scope at once."""

import asyncio

import anyio
import anyio.abc
import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from entries import Sessions, stored, write
from scoped_async import (
    AsyncScopedSession,
    Scope,
    create_task_group,
    current_scope,
    scope,
)


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


class TestLaw16TheLimit:
    """`limit` bounds how many children hold a scope at once, so that a fan-out cannot drain the pool."""

    async def test_those_that_wait_hold_no_scope_no_session_and_no_connection(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        let_go = asyncio.Event()
        both_in = asyncio.Barrier(3)
        opened: list[Scope] = []

        async def child(number: int) -> None:
            opened.append(current_scope())
            await Session.execute(text("SELECT 1"))
            if number < 2:
                await both_in.wait()
                await let_go.wait()

        async with create_task_group(limit=2) as tg:
            for number in range(10):
                tg.start_soon(child, number)
            await both_in.wait()
            assert len(opened) == 2
            assert checked_out(engine) == 2
            let_go.set()
        assert len(opened) == 10

    async def test_a_child_that_is_cancelled_while_it_waits_never_has_a_scope(self) -> None:
        entered = asyncio.Event()
        opened: list[Scope] = []

        async def child() -> None:
            opened.append(current_scope())
            entered.set()
            await anyio.sleep_forever()

        async with create_task_group(limit=1) as tg:
            tg.start_soon(child)
            waiting = tg.start_soon(child)
            await entered.wait()
            waiting.cancel()
            await waiting.wait()
            tg.cancel()
        assert len(opened) == 1

    async def test_a_place_is_free_again_only_when_the_scope_is_closed(self, Session: Sessions) -> None:
        opened: list[Scope] = []

        async def child() -> None:
            assert all(each.closed for each in opened)
            opened.append(current_scope())
            await write(Session, "one")

        async with create_task_group(limit=1, commit=True) as tg:
            for _ in range(5):
                tg.start_soon(child)
        assert len(opened) == 5

    async def test_start_waits_for_its_place(self) -> None:
        let_go = asyncio.Event()

        async def first(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            task_status.started()
            await let_go.wait()

        async def second(*, task_status: anyio.abc.TaskStatus[None]) -> None:
            assert let_go.is_set()
            task_status.started()

        async with create_task_group(limit=1) as tg:
            await tg.start(first)
            asyncio.get_running_loop().call_soon(let_go.set)
            await tg.start(second)

    async def test_a_parent_that_holds_a_connection_needs_a_pool_of_one_more(
        self, Session: Sessions, postgres_url: str
    ) -> None:
        engine = create_async_engine(postgres_url, pool_size=3, max_overflow=0, pool_timeout=5)
        Small = AsyncScopedSession(async_sessionmaker(engine))
        async with scope(commit=True):
            await write(Small, "parent")
            async with create_task_group(limit=2, commit=True) as tg:
                for number in range(20):
                    tg.start_soon(write, Small, f"child {number}")
        assert checked_out(engine) == 0
        assert len(await stored(engine)) == 21
        await engine.dispose()

    async def test_with_a_pool_too_small_the_wait_ends_in_the_pools_timeout(
        self, Session: Sessions, postgres_url: str
    ) -> None:
        engine = create_async_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=0.1)
        Small = AsyncScopedSession(async_sessionmaker(engine))
        async with scope():
            await Small.execute(select(1))
            with pytest.raises(ExceptionGroup) as raised:
                async with create_task_group(limit=1) as tg:
                    tg.start_soon(Small.execute, select(1))
            assert raised.group_contains(PoolTimeoutError)
            assert checked_out(engine) == 1
        assert checked_out(engine) == 0
        await engine.dispose()

    @pytest.mark.parametrize("children", [200, pytest.param(10_000, marks=pytest.mark.proof)])
    async def test_a_fan_out_cannot_drain_the_pool(
        self, children: int, Session: Sessions, engine: AsyncEngine
    ) -> None:
        most = 0

        async def child(number: int) -> None:
            nonlocal most
            await write(Session, f"child {number}")
            most = max(most, checked_out(engine))

        async with create_task_group(limit=5, commit=True) as tg:
            for number in range(children):
                tg.start_soon(child, number)
        assert most == 5
        assert await stored(engine) == {f"child {number}" for number in range(children)}
