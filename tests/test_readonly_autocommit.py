"""Law 28 where there is no transaction that could be READ ONLY: in AUTOCOMMIT."""

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from entries import Entry, Sessions, scoped_session, stored
from scoped_async import AsyncScopedSession, ReadOnlyScopeError, scope


async def assert_refused(Session: Sessions) -> None:
    """Also when the body has swallowed the first refusal."""
    for statement in (text("INSERT INTO entries (text) VALUES ('raw')"), insert(Entry).values(text="ORM")):
        with pytest.raises(ReadOnlyScopeError, match=r"AUTOCOMMIT.*readonly_bind"):
            await Session.execute(statement)


class TestLaw28InAutocommit:
    """On PostgreSQL every statement of a readonly scope is refused there, since the server would take it."""

    @pytest.mark.parametrize("how", ["its own engine", "the readonly_bind"])
    async def test_by_an_engine(self, how: str, postgres_url: str, engine: AsyncEngine) -> None:
        await scoped_session(engine)
        autocommit = create_async_engine(postgres_url, pool_size=1, max_overflow=0).execution_options(
            isolation_level="AUTOCOMMIT"
        )
        own = how == "its own engine"
        Reading = AsyncScopedSession(
            async_sessionmaker(autocommit if own else engine), readonly_bind=None if own else autocommit
        )
        async with scope(readonly=True):
            await assert_refused(Reading)
        assert isinstance(autocommit.pool, QueuePool)
        assert autocommit.pool.checkedout() == 0
        await autocommit.dispose()
        assert await stored(engine) == set()

    @pytest.mark.parametrize("begun", [True, False], ids=["in a transaction", "in none"])
    async def test_on_a_connection_which_stays_as_it_is(self, begun: bool, engine: AsyncEngine) -> None:
        await scoped_session(engine)
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            if begun:
                await connection.begin()
            Reading = AsyncScopedSession(async_sessionmaker(connection))
            async with scope(readonly=True):
                await assert_refused(Reading)
            assert connection.in_transaction() == begun
            assert await connection.scalar(select(1)) == 1
        assert await stored(engine) == set()
