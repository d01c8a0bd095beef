"""isolate() and readonly scopes: they read what was committed before, and write as little as ever."""

from pathlib import Path

import pytest
from notes import Note, read, sessions_of, write
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from scoped_async import AsyncScopedSession, ReadOnlyScopeError, scope
from scoped_async.testing import isolate

Proxy = AsyncScopedSession[AsyncSession]


class TestReadonly:
    """A readonly scope reads from the same connection, and the scopes around it in time may write."""

    async def test_it_sees_what_was_committed_and_may_not_write(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with isolate(session, notes):
            await write(session, 1)
            async with scope(readonly=True):
                assert await session.scalar(select(Note.id)) == 1
                session.add(Note(id=2))
                with pytest.raises(ReadOnlyScopeError):
                    await session.flush()
            await write(session, 3)
            assert await read(session) == [1, 3]

    async def test_postgresql_refuses_raw_writes_in_it_and_takes_them_again_after_it(
        self, postgres_notes: AsyncEngine
    ) -> None:
        """SET TRANSACTION READ ONLY within a savepoint ends with the savepoint."""
        session = sessions_of(postgres_notes)
        insert = text("INSERT INTO note (id) VALUES (1)")
        async with isolate(session, postgres_notes):
            async with scope(readonly=True):
                with pytest.raises(DBAPIError, match="read-only transaction"):
                    await session.execute(insert)
            async with scope(readonly=True):
                await session.execute(text("SELECT 1"))
            async with scope(commit=True):
                await session.execute(insert)
            assert await read(session) == [1]

    async def test_the_replica_is_replaced_too(self, notes: AsyncEngine) -> None:
        """What stands in for the replica sees the commits at once, as one that does not lag would."""
        replica = create_async_engine("postgresql+asyncpg://nobody@nowhere.invalid/")
        session = sessions_of(notes, readonly_bind=replica)
        async with isolate(session, notes):
            await write(session, 1)
            async with scope(readonly=True):
                assert await session.scalar(select(Note.id)) == 1
        await replica.dispose()

    async def test_a_replica_that_is_given_too_is_read_from(self, notes: AsyncEngine, tmp_path: Path) -> None:
        replica = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'replica.db'}")
        session = sessions_of(notes, readonly_bind=replica)
        async with isolate((session, notes), (session, replica)):
            async with scope(readonly=True):
                assert session.get_bind().engine is replica.sync_engine
            async with scope():
                assert session.get_bind().engine is notes.sync_engine
        await replica.dispose()
