"""Law 28: sessions that may only read."""

from typing import Any

import pytest
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from entries import Entry, Sessions, scoped_session, stored, write
from scoped_async import AsyncScopedSession, ReadOnlyScopeError, create_task_group, scope


async def with_one_entry(engine: AsyncEngine) -> Sessions:
    """A proxy over a table with one entry."""
    Session = await scoped_session(engine)
    async with scope(commit=True):
        await write(Session, "there")
    return Session


@pytest.fixture(name="Session")
async def session(engine: AsyncEngine) -> Sessions:
    return await with_one_entry(engine)


@pytest.fixture(name="Lite")
async def lite_session(sqlite_engine: AsyncEngine) -> Sessions:
    return await with_one_entry(sqlite_engine)


def refused_by_the_server(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) == "25006"


class TestLaw28OnPostgres:
    """On PostgreSQL the transactions are READ ONLY, so the server itself refuses every write."""

    @pytest.mark.parametrize(
        "statement",
        [
            text("INSERT INTO entries (text) VALUES ('raw')"),
            text("CREATE TABLE never (id int)"),
            insert(Entry).values(text="by the ORM"),
            update(Entry).values(text="by the ORM"),
            delete(Entry),
            select(Entry).with_for_update(),
        ],
        ids=str,
    )
    async def test_a_write_is_refused(self, statement: Any, Session: Sessions, engine: AsyncEngine) -> None:
        async with scope(readonly=True):
            with pytest.raises(DBAPIError) as raised:
                await Session.execute(statement)
        assert refused_by_the_server(raised.value)
        assert await stored(engine) == {"there"}

    async def test_in_every_transaction_of_the_scope(self, Session: Sessions) -> None:
        async with scope(readonly=True) as opened:
            for end in (Session.commit, Session.rollback, opened.release, opened.commit, Session.close):
                assert await Session.scalar(text("SHOW transaction_read_only")) == "on"
                await end()
            async with Session.begin():
                assert await Session.scalar(text("SHOW transaction_read_only")) == "on"
            async with scope(propagation="nested"):
                assert await Session.scalar(text("SHOW transaction_read_only")) == "on"
            async with Session.begin_nested():
                assert await Session.scalar(text("SHOW transaction_read_only")) == "on"

    async def test_the_next_scope_on_the_connection_may_write(
        self, Session: Sessions, postgres_url: str, engine: AsyncEngine
    ) -> None:
        one = create_async_engine(postgres_url, pool_size=1, max_overflow=0)
        Single = AsyncScopedSession(async_sessionmaker(one))
        async with scope(readonly=True):
            await Single.execute(select(Entry))
        async with scope(commit=True):
            await write(Single, "written")
        await one.dispose()
        assert await stored(engine) == {"there", "written"}


class TestLaw28Readonly:
    """A flush and a commit of pending changes raise ReadOnlyScopeError, and the exit rolls back."""

    @pytest.fixture(params=["Session", "Lite"])
    def Any_(self, request: pytest.FixtureRequest) -> Sessions:
        Session: Sessions = request.getfixturevalue(request.param)
        return Session

    @pytest.mark.parametrize("change", ["new", "dirty", "deleted"])
    @pytest.mark.parametrize("how", ["flush", "autoflush", "commit", "scope.commit", "begin", "nested"])
    async def test_pending_changes_are_refused(self, how: str, change: str, Any_: Sessions) -> None:
        async with scope(readonly=True) as opened:
            if how == "begin":
                opener: Any = Any_.begin()
                await opener.__aenter__()
            entry = (await Any_.scalars(select(Entry))).one()
            if change == "new":
                Any_.add(Entry(text="new"))
            elif change == "dirty":
                entry.text = "changed"
            else:
                await Any_.delete(entry)
            with pytest.raises(ReadOnlyScopeError, match=r"scope\(commit=True\)"):
                if how == "flush":
                    await Any_.flush()
                elif how == "autoflush":
                    await Any_.execute(select(Entry))
                elif how == "commit":
                    await Any_.commit()
                elif how == "scope.commit":
                    await opened.commit()
                elif how == "begin":
                    await opener.__aexit__(None, None, None)
                else:
                    await scope(propagation="nested").__aenter__()
        async with scope():
            assert (await Any_.scalars(select(Entry.text))).all() == ["there"]

    async def test_reading_and_a_commit_without_changes_are_fine(self, Any_: Sessions) -> None:
        async with scope(readonly=True) as opened:
            for end in (Any_.commit, opened.commit):
                entry = (await Any_.scalars(select(Entry))).one()
                await end()
                assert not Any_.in_transaction()
                assert entry.text == "there"
            async with Any_.begin():
                await Any_.execute(select(Entry))
            async with Any_.begin_nested():
                await Any_.execute(select(Entry))
                await Any_.commit()
                assert not Any_.in_nested_transaction()
                assert not Any_.in_transaction()

    async def test_what_raw_sql_wrote_where_no_server_refuses_it_is_rolled_back(
        self, Lite: Sessions, sqlite_engine: AsyncEngine
    ) -> None:
        for end in (None, Lite.commit, Lite.rollback, Lite.close):
            async with scope(readonly=True):
                await write(Lite, "raw")
                if end is not None:
                    await end()
        assert await stored(sqlite_engine) == {"there"}

    def test_together_with_commit_it_is_a_value_error_at_the_call(self) -> None:
        with pytest.raises(ValueError, match="readonly"):
            scope(readonly=True, commit=True)
        with pytest.raises(ValueError, match="readonly"):
            create_task_group(readonly=True, commit=True)


class TestLaw28TheReplica:
    """readonly_bind, when given, replaces every bind of the sessions of readonly scopes, `binds` included."""

    @pytest.mark.parametrize("binding", [{"bind": True}, {"binds": True}, {"bind": True, "binds": True}])
    async def test_it_replaces_every_bind(
        self, binding: dict[str, bool], Session: Sessions, engine: AsyncEngine, sqlite_engine: AsyncEngine
    ) -> None:
        await scoped_session(sqlite_engine)
        binds: dict[str, Any] = {"bind": engine, "binds": {Entry: engine}}
        factory = async_sessionmaker(**{name: binds[name] for name in binding})
        Replicated: Sessions = AsyncScopedSession(factory, readonly_bind=sqlite_engine)

        async with scope(readonly=True):
            assert (await Replicated.scalars(select(Entry))).all() == []
        async with scope():
            assert [entry.text for entry in await Replicated.scalars(select(Entry))] == ["there"]

    async def test_also_for_a_session_made_by_a_call(
        self, Session: Sessions, engine: AsyncEngine, sqlite_engine: AsyncEngine
    ) -> None:
        await scoped_session(sqlite_engine)
        Replicated: Sessions = AsyncScopedSession(async_sessionmaker(engine), readonly_bind=sqlite_engine)
        async with scope(readonly=True):
            real: AsyncSession = Replicated(autoflush=False)
            assert not real.autoflush
            assert (await real.scalars(select(Entry))).all() == []

    async def test_without_one_the_binds_stay(self, Session: Sessions) -> None:
        async with scope(readonly=True):
            assert [entry.text for entry in await Session.scalars(select(Entry))] == ["there"]


class TestLaw28WhoJoins:
    """A function that joins a readonly scope runs in it; a readonly block may join a writable scope."""

    @pytest.mark.parametrize("word", ["join", "nested", "mandatory"])
    async def test_a_writer_that_joins_a_readonly_scope_is_refused_there(
        self, word: Any, Session: Sessions, engine: AsyncEngine
    ) -> None:
        @scope(commit=True, propagation=word)
        async def by_the_orm() -> None:
            Session.add(Entry(text="never"))
            await Session.flush()

        @scope(commit=True, propagation=word)
        async def by_sql() -> None:
            await write(Session, "never")

        async with scope(readonly=True):
            with pytest.raises(ReadOnlyScopeError):
                await by_the_orm()
        async with scope(readonly=True):
            with pytest.raises(DBAPIError) as raised:
                await by_sql()
            assert refused_by_the_server(raised.value)
        assert await stored(engine) == {"there"}

    @pytest.mark.parametrize("word", ["join", "nested", "mandatory"])
    async def test_a_readonly_block_in_a_writable_scope(
        self, word: Any, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            await write(Session, "one")
            async with scope(readonly=True, propagation=word) as joined:
                assert not joined.readonly
                assert len((await Session.scalars(select(Entry))).all()) == 2
                await write(Session, "two")
        assert await stored(engine) == {"there", "one", "two"}
