"""Faults: a server that goes silent, through a relay that passes nothing on any more.

After each: a clear error, no connection out, and the next scopes work, on a pool of one; see ``watch``.
"""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util.concurrency import in_greenlet

from relay import Relay, relay
from scoped_async import (
    ScopeCleanupError,
    scope,
)
from watch import Calls, Item, Proxy, Watched, Watching, answer, names, out, pool_of_one


@pytest.fixture
async def silent(postgres_url: str) -> AsyncIterator[Relay]:
    async with relay(postgres_url) as silent:
        yield silent


class TestTheServerGoesSilent(Watching):
    """Law 12: the exit is bounded by ``close_timeout``, and the connection is terminated."""

    @pytest.fixture
    async def watched(self, silent: Relay) -> AsyncIterator[Watched]:
        async with pool_of_one(silent.url) as watched:
            yield watched
            silent.speak()

    @pytest.fixture
    def waits(self, engine: AsyncEngine) -> list[bool]:
        """Whether each close waits for the server: in a greenlet, SQLAlchemy does, for up to 2 s."""
        waits: list[bool] = []
        event.listen(engine.sync_engine, "close", lambda *_: waits.append(in_greenlet()))
        return waits

    async def test_within_the_rollback(
        self, Session: Proxy, engine: AsyncEngine, silent: Relay, waits: list[bool]
    ) -> None:
        calls = Calls()

        async def work() -> None:
            async with scope(close_timeout=0.2) as current:
                calls.register(current)
                Session.add(Item(id=1, name="lost"))
                await Session.flush()
                silent.go_silent()

        with pytest.raises(ScopeCleanupError, match=r"close_timeout=0\.2 s"):
            await work()
        assert out(engine) == 0
        assert waits == [False]
        assert calls.ran == ["rolled back"]
        silent.speak()
        assert await names(Session) == []

    async def test_within_the_commit(
        self, Session: Proxy, engine: AsyncEngine, silent: Relay, waits: list[bool]
    ) -> None:
        calls = Calls()

        async def work() -> None:
            async with scope(commit=True, close_timeout=0.2) as current:
                calls.register(current)
                Session.add(Item(id=1, name="sent"))
                await Session.flush()
                silent.go_silent()

        with pytest.raises(
            ScopeCleanupError, match=r"The outcome of the commit of the session of .* is unknown"
        ):
            await work()
        assert out(engine) == 0
        assert waits == [False]
        assert calls.ran == []
        silent.speak()

    async def test_within_the_flush_of_the_commit(
        self, Session: Proxy, engine: AsyncEngine, silent: Relay, waits: list[bool]
    ) -> None:
        calls = Calls()

        async def work() -> None:
            async with scope(commit=True, close_timeout=0.2) as current:
                calls.register(current)
                await Session.scalar(select(1))
                Session.add(Item(id=1, name="not sent"))
                silent.go_silent()

        with pytest.raises(ScopeCleanupError, match="was not sent, so its work is rolled back"):
            await work()
        assert out(engine) == 0
        assert waits == [False]
        assert calls.ran == ["rolled back"]
        silent.speak()
        assert await names(Session) == []

    async def test_with_an_exception_on_its_way(
        self, Session: Proxy, engine: AsyncEngine, silent: Relay, waits: list[bool]
    ) -> None:
        async def work() -> None:
            async with scope(close_timeout=0.2):
                await Session.scalar(select(1))
                silent.go_silent()
                raise LookupError("the body's own")

        with pytest.raises(LookupError, match="the body's own") as failure:
            await work()
        assert "close_timeout=0.2 s" in failure.value.__notes__[0]
        assert out(engine) == 0
        assert waits == [False]
        silent.speak()

    async def test_while_a_child_is_in_a_statement(
        self, Session: Proxy, engine: AsyncEngine, silent: Relay, waits: list[bool]
    ) -> None:
        async def work() -> None:
            async with scope(close_timeout=0.2):
                await Session.scalar(select(1))
                silent.go_silent()
                children.append(asyncio.create_task(Session.scalar(answer(2))))
                await asyncio.sleep(0)

        children: list[asyncio.Task[int | None]] = []
        with pytest.raises(ScopeCleanupError, match=r"scalar\(\) of another task"):
            await work()
        assert out(engine) == 0
        assert waits == [False]
        with pytest.raises(DBAPIError):
            await children[0]
        silent.speak()

    async def test_while_a_child_connects(self, Session: Proxy, engine: AsyncEngine, silent: Relay) -> None:
        """What it gets in the end is no connection of a dead scope."""

        async def work() -> None:
            async with scope(close_timeout=0.2):
                silent.go_silent()
                children.append(asyncio.create_task(Session.scalar(answer(2))))
                await asyncio.sleep(0)

        await engine.dispose()
        children: list[asyncio.Task[int | None]] = []
        with pytest.raises(ScopeCleanupError, match=r"scalar\(\) of another task"):
            await work()
        silent.speak()
        await asyncio.wait(children)
        children[0].exception()
        await asyncio.sleep(0)
        assert out(engine) == 0

    async def test_cancelled_meanwhile(
        self, Session: Proxy, engine: AsyncEngine, silent: Relay, waits: list[bool]
    ) -> None:
        async def work() -> None:
            async with scope(close_timeout=0.2):
                await Session.scalar(select(1))
                silent.go_silent()
                left.set()

        left = asyncio.Event()
        task = asyncio.create_task(work())
        await left.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert out(engine) == 0
        assert waits == [False]
        silent.speak()
