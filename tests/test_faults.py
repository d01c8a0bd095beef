"""Faults: connections that die, a server that is away, and what raises where it may not.

After each: a clear error, no connection out, and the next scopes work, on a pool of one; see ``watch``.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from sqlalchemy import event, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session as SyncSession

from postgres import PostgresServer
from scoped_async import (
    AsyncScopedSession,
    scope,
)
from watch import PID, Calls, Gate, Item, Proxy, Watched, Watching, names, out, pool_of_one, terminated


class TestAConnectionDies(Watching):
    async def test_in_the_middle_of_a_statement(
        self, Session: Proxy, engine: AsyncEngine, gate: Gate
    ) -> None:
        calls = Calls()

        async def work() -> None:
            async with scope(commit=True) as current:
                calls.register(current)
                Session.add(Item(id=1, name="lost"))
                await Session.scalar(gate.passing())

        task = asyncio.create_task(work())
        await gate.kill()
        with pytest.raises(DBAPIError, match="terminating connection"):
            await task
        assert out(engine) == 0
        assert calls.ran == ["rolled back"]
        assert await names(Session) == []

    @pytest.mark.parametrize("by_hand", [False, True], ids=["exit", "Session.commit()"])
    async def test_in_the_middle_of_a_commit_the_outcome_is_unknown(
        self, Session: Proxy, engine: AsyncEngine, gate: Gate, by_hand: bool
    ) -> None:
        calls = Calls()
        await gate.at_commit(Session)

        async def work() -> None:
            async with scope(commit=not by_hand) as current:
                calls.register(current)
                Session.add(Item(id=1, name="lost"))
                if by_hand:
                    await Session.commit()

        task = asyncio.create_task(work())
        await gate.kill()
        with pytest.raises(DBAPIError, match="terminating connection") as failure:
            await task
        assert "The outcome of the commit of the session of" in failure.value.__notes__[0]
        assert calls.ran == []
        assert out(engine) == 0
        assert await names(Session) == []

    @pytest.mark.parametrize("then", ["a statement", "the commit", "the end"])
    async def test_between_statements(
        self, Session: Proxy, engine: AsyncEngine, postgres_url: str, then: str
    ) -> None:
        calls = Calls()

        async def work() -> None:
            async with scope(commit=then == "the commit") as current:
                calls.register(current)
                Session.add(Item(id=1, name="lost"))
                await Session.flush()
                pid = await Session.scalar(PID)
                assert pid is not None
                await terminated(postgres_url, pid)
                if then == "a statement":
                    await Session.scalar(select(1))

        with pytest.raises(DBAPIError) as failure:
            await work()
        assert out(engine) == 0
        unknown = "unknown" in "".join(getattr(failure.value, "__notes__", []))
        assert calls.ran == ([] if unknown else ["rolled back"])
        assert not unknown or then == "the commit", "sent only where the driver had not noticed yet"
        assert await names(Session) == []

    async def test_while_it_waits_in_the_pool(
        self, Session: Proxy, engine: AsyncEngine, postgres_url: str
    ) -> None:
        async with scope():
            pid = await Session.scalar(PID)
        assert pid is not None
        await terminated(postgres_url, pid)
        with pytest.raises(DBAPIError):
            async with scope(commit=True):
                await Session.scalar(select(1))
        assert out(engine) == 0

    async def test_in_the_middle_of_a_stream(
        self, Session: Proxy, engine: AsyncEngine, postgres_url: str
    ) -> None:
        with pytest.raises(Exception, match=r"closed|terminat"):
            async with scope():
                pid = await Session.scalar(PID)
                assert pid is not None
                stream = await Session.stream(text("SELECT generate_series(1, 100000)"))
                await stream.fetchone()
                await terminated(postgres_url, pid)
                await stream.all()
        assert out(engine) == 0


class TestTheServerIsAway(Watching):
    """Stopped while a scope is open, and started again."""

    @pytest.fixture
    async def watched(self, postgres: PostgresServer) -> AsyncIterator[Watched]:
        async with pool_of_one(postgres.url, pool_pre_ping=True) as watched:
            yield watched

    @asynccontextmanager
    async def stopped(self, postgres: PostgresServer) -> AsyncIterator[None]:
        postgres.stop()
        try:
            yield
        finally:
            postgres.start()  # in this thread: Linux would stop the server when the one that starts it ends

    @pytest.mark.parametrize("where", ["a statement", "the commit", "the end"])
    async def test_in_a_scope(
        self, Session: Proxy, engine: AsyncEngine, postgres: PostgresServer, where: str
    ) -> None:
        async with AsyncExitStack() as meanwhile:
            with pytest.raises(DBAPIError, match=r"connection|terminating"):
                async with scope(commit=where == "the commit"):
                    Session.add(Item(id=1, name="lost"))
                    await Session.flush()
                    await meanwhile.enter_async_context(self.stopped(postgres))
                    if where == "a statement":
                        await Session.scalar(select(1))
            assert out(engine) == 0
            for _ in range(3):
                with pytest.raises(OSError, match="Connect call failed"):
                    async with scope(commit=True):
                        await Session.scalar(select(1))
                assert out(engine) == 0
        assert await names(Session) == []

    async def test_a_commit_that_cannot_connect_was_not_sent(
        self, Session: Proxy, engine: AsyncEngine, postgres: PostgresServer
    ) -> None:
        """What the commit would flush is known to be lost when there is no server."""
        calls = Calls()
        async with self.stopped(postgres):
            with pytest.raises(OSError, match="Connect call failed") as failure:
                async with scope(commit=True) as current:
                    calls.register(current)
                    Session.add(Item(id=1, name="never sent"))
        assert "unknown" not in "".join(getattr(failure.value, "__notes__", []))
        assert calls.ran == ["rolled back"]
        assert await names(Session) == []


class Unclosable(AsyncSession):
    async def close(self) -> None:
        raise LookupError("close() failed")


class TestWhatRaises(Watching):
    @pytest.mark.parametrize("commit", [False, True])
    async def test_a_close_that_raises(self, engine: AsyncEngine, Session: Proxy, commit: bool) -> None:
        Bad = AsyncScopedSession(async_sessionmaker(engine, class_=Unclosable))
        with pytest.raises(LookupError, match=r"close\(\) failed"):
            async with scope(commit=commit):
                Bad.add(Item(id=1, name="a"))
                await Bad.flush()
        assert out(engine) == 0
        with pytest.raises(LookupError, match=r"close\(\) failed"):
            async with scope():
                await Bad.scalar(select(1))
                await Bad.remove()
        assert out(engine) == 0
        assert await names(Session) == (["a"] if commit else [])

    async def test_a_factory_that_raises(self, Session: Proxy, engine: AsyncEngine) -> None:
        def factory(**_: object) -> AsyncSession:
            raise LookupError("no session today")

        Bad = AsyncScopedSession(factory)
        async with scope(commit=True):
            Session.add(Item(id=1, name="a"))
            for _ in range(2):
                with pytest.raises(LookupError, match="no session today"):
                    await Bad.scalar(select(1))
        assert out(engine) == 0
        assert await names(Session) == ["a"]

    async def test_a_hook_of_the_commit_that_raises(self, Session: Proxy, engine: AsyncEngine) -> None:
        with pytest.raises(LookupError, match="not today"):
            async with scope(commit=True):
                Session.add(Item(id=1, name="lost"))

                @event.listens_for(Session().sync_session, "before_commit")
                def refuse(_: SyncSession) -> None:
                    raise LookupError("not today")

        assert out(engine) == 0
        assert await names(Session) == []
