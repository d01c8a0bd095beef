"""Faults: a scope that is left while a child still uses, or is about to get, its session.

After each: a clear error, no connection out, and the next scopes work, on a pool of one; see ``watch``.
"""

import asyncio
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine

from relay import relay
from scoped_async import (
    ScopeCleanupError,
    ScopeClosedError,
    scope,
)
from watch import PID, Gate, Item, Proxy, Watching, answer, names, out, pool_of_one


class TestThePoolIsExhausted(Watching):
    async def test_the_one_that_waits_gets_a_clear_error(self, postgres_url: str) -> None:
        async with pool_of_one(postgres_url, pool_timeout=0.1) as (engine, Session):
            async with scope():
                pid = await Session.scalar(PID)
                with pytest.raises(PoolTimeoutError, match="QueuePool limit"):
                    async with scope(commit=True):
                        await Session.scalar(select(1))
                with pytest.raises(PoolTimeoutError, match="QueuePool limit") as failure:
                    async with scope(commit=True):
                        Session.add(Item(id=1, name="lost"))
                assert not getattr(failure.value, "__notes__", [])
                assert await Session.scalar(PID) == pid
            assert out(engine) == 0

    async def test_left_while_a_child_waits_for_the_pool(self, Session: Proxy, engine: AsyncEngine) -> None:
        """The connection that the child gets in the end is not kept by the session of a dead scope."""
        children: list[asyncio.Task[Any]] = []
        async with scope():
            await Session.scalar(select(1))
            with pytest.raises(ScopeCleanupError, match=r"scalar\(\) of another task"):
                async with scope(close_timeout=0.05):
                    children.append(asyncio.create_task(Session.scalar(answer(2))))
                    await asyncio.sleep(0)
        with pytest.raises(ScopeClosedError, match="was still in use when its scope"):
            await children[0]
        assert out(engine) == 0

    @pytest.mark.parametrize("with_callback", [False, True])
    async def test_left_while_a_child_waits_for_the_pool_with_the_real_session(
        self, with_callback: bool, Session: Proxy, engine: AsyncEngine
    ) -> None:
        """It is said once, also where a rollback comes before the close."""
        children: list[asyncio.Task[Any]] = []
        called: list[str] = []
        async with scope():
            await Session.scalar(select(1))
            with pytest.raises(ScopeCleanupError, match="Another task still used the session of"):
                async with scope() as inner:
                    if with_callback:
                        inner.after_rollback(called.append, "rolled back")
                    children.append(asyncio.create_task(Session().scalar(answer(2))))
                    await asyncio.sleep(0)
        assert called == (["rolled back"] if with_callback else [])
        with pytest.raises(ScopeClosedError, match="was still in use when its scope"):
            await children[0]
        assert out(engine) == 0


class TestLeftWhileAChildIsNotDone(Watching):
    """What the proxy guards is waited for (law 17); what the real session runs is cut off."""

    async def test_a_child_iterates_a_stream(self, Session: Proxy, engine: AsyncEngine) -> None:
        async def child() -> int:
            rows = 0
            with pytest.raises(ScopeClosedError):
                async for _ in stream:
                    rows += 1
                    begun.set()
                    await asyncio.sleep(0)
            return rows

        begun = asyncio.Event()
        async with scope():
            stream = await Session.stream_scalars(text("SELECT generate_series(1, 100000)"))
            iterating = asyncio.create_task(child())
            await begun.wait()
        assert out(engine) == 0
        assert 0 < await iterating < 100000

    @pytest.mark.parametrize("commit", [False, True])
    @pytest.mark.parametrize("failing", [False, True])
    async def test_a_child_is_in_a_statement_of_the_real_session(
        self, Session: Proxy, engine: AsyncEngine, gate: Gate, commit: bool, failing: bool
    ) -> None:
        async def work() -> None:
            async with scope(commit=commit):
                Session.add(Item(id=1, name="lost"))
                await Session.flush()
                children.append(asyncio.create_task(Session().scalar(gate.passing())))
                await gate.waiting()
                if failing:
                    raise LookupError("the body's own")

        children: list[asyncio.Task[int | None]] = []
        with pytest.raises(LookupError if failing else ScopeCleanupError) as failure:
            await work()
        said = failure.value.__notes__[0] if failing else str(failure.value)
        assert "Another task still used the session of" in said
        assert out(engine) == 0
        with pytest.raises(DBAPIError):
            await children[0]
        assert await names(Session) == []

    @pytest.mark.parametrize("end", ["rollback", "close", "reset", "remove", "begin"])
    async def test_the_session_is_ended_while_a_child_is_in_a_statement_of_the_real_one(
        self, Session: Proxy, engine: AsyncEngine, gate: Gate, end: str
    ) -> None:
        children: list[asyncio.Task[Any]] = []
        async with scope():
            transaction = Session.begin()
            if end == "begin":
                await transaction.start()
            connection = await Session.connection()
            children.append(asyncio.create_task(connection.scalar(gate.passing())))
            await gate.waiting()
            with pytest.raises(ScopeCleanupError, match="Another task still used the session of"):
                await (transaction.rollback() if end == "begin" else getattr(Session, end)())
            with pytest.raises(DBAPIError):
                await children[0]
            assert out(engine) == 0
            assert await Session.scalar(select(1)) == 1

    async def test_a_commit_that_has_something_to_ask_waits_for_the_statement(
        self, Session: Proxy, gate: Gate
    ) -> None:
        async def work() -> None:
            async with scope(commit=True):
                connection = await Session.connection()
                Session.add(Item(id=1, name="kept"))
                children.append(asyncio.create_task(connection.scalar(gate.passing())))
                await gate.waiting()
                waiting.set()

        waiting = asyncio.Event()
        children: list[asyncio.Task[int | None]] = []
        leaving = asyncio.create_task(work())
        await waiting.wait()
        await gate.open()
        await leaving
        assert await children[0] == 7
        assert await names(Session) == ["kept"]

    async def test_a_child_has_begun_a_statement_of_the_real_session(self, postgres_url: str) -> None:
        """Its BEGIN is under way, of which SQLAlchemy knows nothing yet: its rollback sends nothing."""
        children: list[asyncio.Task[Any]] = []
        async with relay(postgres_url) as silent, pool_of_one(silent.url) as (engine, Session):
            async with scope():
                pid = await Session.scalar(PID)
            with pytest.raises(ScopeCleanupError, match="Another task still used the session of"):
                async with scope():
                    real = Session()
                    silent.go_silent()
                    children.append(asyncio.create_task(real.scalar(answer(2))))
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
            assert out(engine) == 0
            silent.speak()
            async with scope():
                assert await Session.scalar(PID) != pid
            with pytest.raises(DBAPIError):
                await children[0]

    @pytest.mark.parametrize("commit", [False, True])
    async def test_a_child_is_in_a_statement_outside_of_transactions(
        self, Session: Proxy, engine: AsyncEngine, gate: Gate, commit: bool
    ) -> None:
        children: list[asyncio.Task[Any]] = []
        pids: list[int | None] = []
        with pytest.raises(ScopeCleanupError, match="Another task still used the session of"):
            async with scope(commit=commit):
                real = Session()
                await real.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
                pids.append(await real.scalar(PID))
                children.append(asyncio.create_task(real.scalar(gate.passing())))
                await gate.waiting()
        assert out(engine) == 0
        with pytest.raises(DBAPIError):
            await children[0]
        async with scope():
            assert await Session.scalar(PID) not in pids
