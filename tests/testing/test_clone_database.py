"""clone_database(): a database of its own for a test, with full concurrency and real commits."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from notes import Base, read, sessions_of, stored, write
from sqlalchemy import URL, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from scoped_async import ScopeError, scope
from scoped_async.testing import clone_database


@pytest.fixture
async def template(postgres_url: str) -> AsyncIterator[str]:
    """A database with an empty table of notes, to which nobody is connected."""
    name = "notes_template"
    url = make_url(postgres_url)
    server = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with server.connect() as connection:
        await connection.execute(text(f"CREATE DATABASE {name}"))
    await fill(url.set(database=name))
    yield name
    async with server.connect() as connection:
        await connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))


async def fill(url: URL) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await engine.dispose()


async def databases(url: str) -> set[str]:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        return set(await connection.scalars(text("SELECT datname FROM pg_database")))


async def work(url: URL) -> None:
    """Units of work inside and beside each other, which isolate() cannot keep apart."""
    engine = create_async_engine(url)
    session = sessions_of(engine)
    async with scope(commit=True):
        assert await read(session) == []
        await asyncio.gather(*(write(session, id) for id in range(3)))
    assert await read(session) == [0, 1, 2]
    await engine.dispose()


class TestPostgresql:
    """CREATE DATABASE from a template, dropped whoever is connected."""

    async def test_each_clone_is_a_copy_of_its_own(self, postgres_url: str, template: str) -> None:
        before = await databases(postgres_url)
        async with (
            clone_database(postgres_url, template) as one,
            clone_database(postgres_url, template) as other,
        ):
            assert len({one.database, other.database} - before) == 2
            await asyncio.gather(work(one), work(other))
        assert await databases(postgres_url) == before

    async def test_the_database_of_the_url_is_the_template_unless_another_is_named(
        self, postgres_url: str, template: str
    ) -> None:
        async with clone_database(make_url(postgres_url).set(database=template)) as clone:
            assert clone.database is not None
            assert clone.database.startswith("notes_template_clone_")
            await work(clone)

    async def test_it_is_dropped_while_somebody_is_connected(self, postgres_url: str, template: str) -> None:
        before = await databases(postgres_url)
        async with clone_database(postgres_url, template) as clone:
            engine = create_async_engine(clone)
            connection = await engine.connect()
            await connection.execute(text("SELECT 1"))
        assert await databases(postgres_url) == before
        await connection.invalidate()
        await connection.close()
        await engine.dispose()

    async def test_it_is_dropped_when_the_test_is_cancelled(self, postgres_url: str, template: str) -> None:
        before = await databases(postgres_url)
        cloned = asyncio.Event()

        async def run() -> None:
            async with clone_database(postgres_url, template):
                cloned.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(run())
        await cloned.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await databases(postgres_url) == before

    async def test_a_template_in_use_is_said_to_be(self, postgres_url: str, template: str) -> None:
        engine = create_async_engine(make_url(postgres_url).set(database=template))
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            with pytest.raises(ScopeError, match="cannot copy 'notes_template' while somebody is connected"):
                async with clone_database(postgres_url, template):
                    pass
        await engine.dispose()

    async def test_a_template_that_is_not_there(self, postgres_url: str) -> None:
        with pytest.raises(
            ScopeError, match="copies PostgreSQL databases, and there is none named 'nowhere'"
        ):
            async with clone_database(postgres_url, "nowhere"):
                pass

    async def test_a_server_without_the_database_of_the_url_says_so_itself(self, postgres_url: str) -> None:
        with pytest.raises(Exception, match='database "nowhere" does not exist'):  # in 2.0 the driver's own
            async with clone_database(make_url(postgres_url).set(database="nowhere"), "template1"):
                pass

    async def test_whatever_else_the_server_refuses_it_says_itself(
        self, postgres_url: str, template: str
    ) -> None:
        async with clone_database(postgres_url, template) as url:
            server = create_async_engine(postgres_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
            async with server.connect() as connection:
                name = f'"{url.database}"'
                await connection.execute(
                    text(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
                )
            with pytest.raises(DBAPIError, match="in a read-only transaction"):
                async with clone_database(url, template):
                    pass

    async def test_a_long_name_is_cut_where_postgresql_cuts(self, postgres_url: str) -> None:
        """At 63 bytes, of which some letters take more than one; what tells clones apart must stay."""
        name = "ü" * 31
        async with clone_database(postgres_url, "template1") as long:
            url = make_url(postgres_url)
            server = create_async_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
            async with server.connect() as connection:
                await connection.execute(text(f'ALTER DATABASE "{long.database}" RENAME TO "{name}"'))
            before = await databases(postgres_url)
            async with clone_database(url, name) as one, clone_database(url, name) as other:
                assert await databases(postgres_url) - before == {one.database, other.database}
                assert "ü_clone_" in str(one.database)
            async with server.connect() as connection:
                await connection.execute(text(f'DROP DATABASE "{name}"'))


class TestSqlite:
    """The file is copied, with what stands in its write-ahead log."""

    async def test_each_clone_is_a_copy_of_its_own(self, sqlite_notes: AsyncEngine) -> None:
        async with sqlite_notes.connect() as connection:
            await connection.execute(text("PRAGMA journal_mode = WAL"))
        await write(sessions_of(sqlite_notes), 1)
        async with clone_database(sqlite_notes.url) as clone:
            engine = create_async_engine(clone)
            session = sessions_of(engine)
            await write(session, 2)
            assert await read(session) == [1, 2]
            await engine.dispose()
        assert await stored(sqlite_notes) == 1
        assert clone.database is not None
        assert not await asyncio.to_thread(Path(clone.database).exists)

    async def test_the_template_may_be_another_file(self, sqlite_notes: AsyncEngine) -> None:
        template = sqlite_notes.url.database
        async with clone_database("sqlite+aiosqlite://", template) as clone:
            engine = create_async_engine(clone)
            assert await stored(engine) == 0
            await engine.dispose()

    async def test_a_long_name_is_cut_where_file_systems_cut(self, tmp_path: Path) -> None:
        template = tmp_path / f"{'ü' * 120}.db"
        template.touch()
        async with clone_database("sqlite+aiosqlite://", str(template)) as clone:
            engine = create_async_engine(clone)
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
            await engine.dispose()

    async def test_a_database_in_memory_has_no_file(self) -> None:
        with pytest.raises(ScopeError, match="copies sqlite files, and there is no file ':memory:'"):
            async with clone_database("sqlite+aiosqlite://"):
                pass


async def test_other_databases_are_not_copied() -> None:
    with pytest.raises(ScopeError, match="copies PostgreSQL databases and sqlite files, not mysql"):
        async with clone_database("mysql+aiomysql://localhost/app"):
            pass
