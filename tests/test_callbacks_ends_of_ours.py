"""Law 23: what the scope and SQLAlchemy send to end a transaction themselves is no loss of work."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from sqlalchemy import NullPool, event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, async_sessionmaker, create_async_engine

from entries import Log, Sessions, stored, write
from scoped_async import AsyncScopedSession, current_scope, scope
from scoped_async.testing import isolate


@pytest.fixture
async def closing_engine(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """One that closes each connection that is given back, as every pool does with those past its size."""
    closing = create_async_engine(engine.url, poolclass=NullPool)
    yield closing
    await closing.dispose()


@pytest.fixture
def Closing(closing_engine: AsyncEngine) -> Sessions:
    return AsyncScopedSession(async_sessionmaker(closing_engine))


async def by_the_session(connection: AsyncConnection, Session: Sessions) -> None:
    await Session().commit()


async def by_the_scope(connection: AsyncConnection, Session: Sessions) -> None:
    await current_scope().commit()


class TestLaw23WhatTheScopeSends:
    """To end a transaction, or to give a connection back, is no loss of work."""

    async def test_a_release(
        self, Session: Sessions, Closing: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True) as opened:
            await Closing.execute(text("SELECT 1"))
            log.watch()
            await opened.release()
            await write(Closing, "kept")
        assert log == ["committed"]
        assert await stored(engine) == {"kept"}

    async def test_a_release_of_two_connections(
        self, Session: Sessions, engine: AsyncEngine, closing_engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True) as opened:
            for bind in (engine, closing_engine, create_async_engine(engine.url, poolclass=NullPool)):
                await Session.execute(text("SELECT 1"), bind_arguments={"bind": bind.sync_engine})
            log.watch()
            await opened.release()
            await write(Session, "kept")
        assert log == ["committed"]

    async def test_a_release_within_isolate(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with isolate(Session, engine), scope(commit=True) as opened:
            await Session.execute(text("SELECT 1"))
            log.watch()
            await opened.release()
            await write(Session, "kept")
        assert log == ["committed"]

    async def test_a_commit_of_a_readonly_scope(self, Session: Sessions, Closing: Sessions, log: Log) -> None:
        async with scope(readonly=True):
            await Closing.execute(text("SELECT 1"))
            log.watch()
            await Closing.commit()
        assert log == ["committed"]

    async def test_a_nested_block_in_which_a_session_is_first_used(
        self, Session: Sessions, Closing: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """What fails is the block; the whole transaction of the second session is its own."""
        async with scope(commit=True):
            await write(Session, "kept")
            log.watch("outer")
            with suppress(LookupError):
                async with scope(propagation="nested"):
                    await write(Closing, "lost")
                    log.watch("inner")
                    raise LookupError
        assert log == ["inner rolled back", "outer committed"]
        assert await stored(engine) == {"kept"}

    async def test_what_the_pool_sends_by_asyncpg(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """SQLAlchemy's recipe: a "reset" listener in the place of the rollback at the return."""
        resetting = create_async_engine(engine.url, pool_reset_on_return=None)

        @event.listens_for(resetting.sync_engine, "reset")
        def reset(connection: Any, _: object, state: Any) -> None:
            if not state.terminate_only:
                connection.run_async(lambda driver: driver.execute("ROLLBACK; DISCARD ALL"))

        Resetting = AsyncScopedSession(async_sessionmaker(resetting))
        async with scope(commit=True):
            await write(Resetting, "kept")
            log.watch()
        assert log == ["committed"]
        assert await stored(engine) == {"kept"}
        await resetting.dispose()

    async def test_a_connection_of_a_pool_of_asyncpg(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        address = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
        async with asyncpg.create_pool(address, min_size=1, max_size=1) as pool:
            pooled = create_async_engine(engine.url, poolclass=NullPool, async_creator=pool.acquire)
            Pooled = AsyncScopedSession(async_sessionmaker(pooled))
            async with scope(commit=True):
                await write(Pooled, "kept")
                log.watch()
            assert log == ["committed"]
            assert await stored(engine) == {"kept"}
            await pooled.dispose()

    @pytest.mark.parametrize("end", [by_the_session, by_the_scope])
    async def test_an_end_that_sends_nothing(
        self,
        end: Callable[[AsyncConnection, Sessions], Awaitable[None]],
        Session: Sessions,
        engine: AsyncEngine,
        log: Log,
    ) -> None:
        """asyncpg tells a turn of the loop later; a session in another's transaction ends at once."""
        async with engine.begin() as connection:
            Bound = AsyncScopedSession(async_sessionmaker(connection))
            async with scope(commit=True):
                await Bound.execute(text("SAVEPOINT a"))
                await write(Bound, "lost")
                log.watch()
                driver: Any = (await connection.get_raw_connection()).driver_connection
                await driver.execute("ROLLBACK TO a")
                await end(connection, Bound)
        assert log == ["rolled back"]
        assert await stored(engine) == set()
