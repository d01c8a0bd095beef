"""Sessions with twophase=True: the flush of a commit ends with PREPARE TRANSACTION."""

from collections.abc import AsyncIterator, Iterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from entries import Entry, Log, Sessions, break_the_commit, scoped_session, stored, write
from postgres import postgres_server
from scoped_async import AsyncScopedSession, RollbackOnlyError, scope


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server of its own, which is told to allow prepared transactions."""
    with postgres_server() as server:
        yield server.url


@pytest.fixture
async def engine(url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    yield engine
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM pg_prepared_xacts")) == 0
    await engine.dispose()


@pytest.fixture(name="Session")
async def session(engine: AsyncEngine) -> Sessions:
    await scoped_session(engine)
    return AsyncScopedSession(async_sessionmaker(engine, twophase=True, expire_on_commit=False))


class TestTwoPhases:
    """They commit, roll back and call back as others do, and leave no prepared transaction behind."""

    @pytest.mark.parametrize("pending", [False, True])
    async def test_committed(self, pending: bool, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            log.watch()
            await write(Session, "one")
            if pending:
                Session.add(Entry(text="pending"))
        assert log == ["committed"]
        assert await stored(engine) == {"one", *(["pending"] if pending else [])}

    async def test_prepared_in_the_body(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            log.watch()
            await write(Session, "one")
            await Session.run_sync(lambda session: session.prepare())
        assert log == ["committed"]
        assert await stored(engine) == {"one"}

    async def test_rolled_back(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope():
            log.watch()
            await write(Session, "one")
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    async def test_refused(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async def unit() -> None:
            async with scope(commit=True):
                log.watch()
                await break_the_commit(Session)

        with pytest.raises(IntegrityError):
            await unit()
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    async def test_a_failure_was_swallowed(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        with pytest.raises(RollbackOnlyError):
            async with scope(commit=True):
                log.watch()
                await write(Session, "one")
                with pytest.raises(DBAPIError):
                    await Session.execute(text("SELECT 1 / 0"))
        assert log == ["rolled back"]
        assert await stored(engine) == set()
