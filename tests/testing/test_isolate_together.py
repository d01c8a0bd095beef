"""isolate() of several proxies and engines, within another, and from another task."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from notes import Base, Note, read, sessions_of, stored, write
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from scoped_async import AsyncScopedSession, ScopeError, scope
from scoped_async.testing import isolate

Proxy = AsyncScopedSession[AsyncSession]


class TestSeveral:
    """Each engine has one connection, whichever proxy works on it."""

    async def test_two_databases(self, postgres_notes: AsyncEngine, sqlite_notes: AsyncEngine) -> None:
        a, b = sessions_of(postgres_notes), sessions_of(sqlite_notes)
        async with isolate((a, postgres_notes), (b, sqlite_notes)) as (connection_a, connection_b):
            async with scope(commit=True):
                a.add(Note(id=1))
                b.add(Note(id=2))
            assert (await read(a), await read(b)) == ([1], [2])
            assert list(await connection_a.scalars(select(Note.id))) == [1]
            assert list(await connection_b.scalars(select(Note.id))) == [2]
        assert (await stored(postgres_notes), await stored(sqlite_notes)) == (0, 0)

    async def test_two_proxies_of_one_engine(self, session: Proxy, notes: AsyncEngine) -> None:
        """What one has committed the other sees."""
        other = sessions_of(notes)
        async with isolate((session, notes), (other, notes)) as (connection, the_same):
            assert connection is the_same
            await write(session, 1)
            await write(other, 2)
            assert await read(session) == await read(other) == [1, 2]
        assert await stored(notes) == 0

    async def test_one_proxy_with_two_engines(
        self, postgres_notes: AsyncEngine, sqlite_notes: AsyncEngine
    ) -> None:
        """The binds that the factory chooses by are those of the application."""
        factory = async_sessionmaker(postgres_notes, binds={Note: sqlite_notes})
        session = AsyncScopedSession(factory)
        async with isolate((session, postgres_notes), (session, sqlite_notes)):
            await write(session, 1)
            async with scope():
                assert await session.scalar(text("SELECT count(*) FROM note")) == 0
                assert await session.scalar(select(Note.id)) == 1
        assert (await stored(postgres_notes), await stored(sqlite_notes)) == (0, 0)

    async def test_a_factory_without_an_engine_takes_the_first_that_is_given(
        self, notes: AsyncEngine, tmp_path: Path
    ) -> None:
        """An application that gives its sessions an engine when it starts; the test is there before."""
        session = AsyncScopedSession(async_sessionmaker(expire_on_commit=False))
        other = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")
        async with isolate((session, notes), (session, other)):
            await write(session, 1)
            assert await read(session) == [1]
        assert await stored(notes) == 0
        await other.dispose()

    async def test_a_factory_that_is_a_function(self, notes: AsyncEngine) -> None:
        def make(**options: Any) -> AsyncSession:
            return AsyncSession(notes, **options)

        session = AsyncScopedSession(make)
        async with isolate(session, notes):
            await write(session, 1)
            assert await read(session) == [1]
        assert await stored(notes) == 0

    async def test_two_sessions_of_the_factory_without_a_scope(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with isolate(session, notes):
            one, other = session.session_factory(), session.session_factory()
            one.add(Note(id=1))
            await one.flush()
            with pytest.raises(ScopeError, match="made outside of any scope sends its first statement"):
                await other.scalar(select(Note))
            await one.commit()
            assert await other.scalar(select(Note.id)) == 1
            await one.close()
            await other.close()
        assert await stored(notes) == 0


class TestNested:
    """Within another one of the same engine it is a savepoint there."""

    async def test_it_sees_what_is_around_and_undoes_its_own(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with isolate(session, notes) as connection:
            await write(session, 1)
            for _ in range(2):
                async with isolate(session, notes) as the_same:
                    assert connection is the_same
                    await write(session, 2)
                    assert await read(session) == [1, 2]
                assert await read(session) == [1]
            await write(session, 3)
            assert await read(session) == [1, 3]
        assert await stored(notes) == 0

    async def test_of_another_proxy(self, session: Proxy, notes: AsyncEngine) -> None:
        other = sessions_of(notes)
        async with isolate(session, notes):
            await write(session, 1)
            async with isolate(other, notes):
                await write(other, 2)
                assert await read(session) == [1, 2]
            assert await read(session) == [1]


class TestWhereItIsEntered:
    """In a fixture, that is: in another task, or another Context, than the test."""

    async def test_in_another_task(self, session: Proxy, notes: AsyncEngine) -> None:
        ready, done = asyncio.Event(), asyncio.Event()

        async def fixture() -> None:
            async with isolate(session, notes):
                ready.set()
                await done.wait()

        task = asyncio.create_task(fixture())
        await ready.wait()
        await write(session, 1)
        assert await read(session) == [1]
        done.set()
        await task
        assert await stored(notes) == 0

    async def test_entered_and_left_in_contexts_of_their_own(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        loop = asyncio.get_running_loop()
        isolation = isolate(session, notes)
        await loop.create_task(isolation.__aenter__(), context=copy_context())
        await write(session, 1)
        await loop.create_task(isolation.__aexit__(None, None, None), context=copy_context())
        assert await stored(notes) == 0


@asynccontextmanager
async def sqlite(url: str, *, recipe: bool) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(url)
    if recipe:

        @event.listens_for(engine.sync_engine, "connect")
        def leave_transactions_alone(connection: object, record: object) -> None:
            connection.isolation_level = None  # type: ignore[attr-defined]

        @event.listens_for(engine.sync_engine, "begin")
        def begin(connection: object) -> None:
            connection.exec_driver_sql("BEGIN")  # type: ignore[attr-defined]

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    await engine.dispose()


class TestSqlite:
    """Its driver emits no BEGIN before a SAVEPOINT: isolate() sends it on its own connection."""

    @pytest.mark.parametrize("recipe", [False, True])
    @pytest.mark.parametrize("where", ["file", "memory"])
    async def test_with_and_without_the_recipe(self, tmp_path: Path, where: str, recipe: bool) -> None:
        path = f"/{tmp_path / 'notes.db'}" if where == "file" else ""
        async with sqlite(f"sqlite+aiosqlite://{path}", recipe=recipe) as engine:
            session = sessions_of(engine)
            async with isolate(session, engine):
                await write(session, 1)
                async with isolate(session, engine):
                    await write(session, 2)
                assert await read(session) == [1]
            assert await stored(engine) == 0

    async def test_the_setting_is_the_engines_own_afterwards(self, sqlite_notes: AsyncEngine) -> None:
        async with isolate(sessions_of(sqlite_notes), sqlite_notes) as connection:
            fairy = await connection.get_raw_connection()
            assert fairy.driver_connection.isolation_level is None  # type: ignore[union-attr]
        async with sqlite_notes.connect() as connection:
            fairy = await connection.get_raw_connection()
            assert fairy.driver_connection.isolation_level == ""  # type: ignore[union-attr]
