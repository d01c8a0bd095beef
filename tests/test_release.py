"""Law 29: await scope.release() gives the connections back while the scope stays open."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import insert, select, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from entries import Entry, Sessions, scoped_session, stored, write
from scoped_async import (
    AsyncScopedSession,
    ConcurrentUseError,
    Scope,
    ScopeClosedError,
    ScopedResource,
    ScopeError,
    current_scope,
    scope,
)


@pytest.fixture
async def single(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """A pool of one connection."""
    engine = create_async_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=1)
    yield engine
    assert checked_out(engine) == 0
    await engine.dispose()


@pytest.fixture(name="Session")
async def session(single: AsyncEngine) -> Sessions:
    """A proxy over a table with one entry."""
    Session = await scoped_session(single)
    async with scope(commit=True):
        await write(Session, "there")
    return Session


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def refuses(opened: Scope, reason: str) -> None:
    with pytest.raises(ScopeError, match=reason):
        await opened.release()


class TestLaw29ReleaseGivesTheConnectionsBack:
    """The scope stays open with its loaded objects; its next use takes a connection, in a new transaction."""

    @pytest.mark.parametrize("expire_on_commit", [False, True])
    async def test_a_second_scope_uses_the_only_connection_meanwhile(
        self, expire_on_commit: bool, Session: Sessions, single: AsyncEngine
    ) -> None:
        Session.configure(expire_on_commit=expire_on_commit)
        async with scope(commit=True) as opened:
            entry = (await Session.scalars(select(Entry))).one()
            real = Session()
            transaction = await Session.scalar(text("SELECT now()"))
            assert checked_out(single) == 1
            await opened.release()
            assert checked_out(single) == 0

            async with scope(commit=True):
                await write(Session, "by the second scope")

            assert not opened.closed
            assert current_scope() is opened
            assert Session() is real
            assert entry in Session
            assert entry.text == "there", "loaded, not expired"
            assert checked_out(single) == 0, "reading it takes no connection"

            assert await Session.scalar(text("SELECT now()")) != transaction
            assert len((await Session.scalars(select(Entry))).all()) == 2
            entry.text = "changed"
        assert await stored(single) == {"changed", "by the second scope"}

    async def test_it_may_be_called_again_and_with_nothing_to_give_back(
        self, Session: Sessions, single: AsyncEngine
    ) -> None:
        async with scope() as opened:
            await opened.release()
            Session()
            await opened.release()
            for _ in range(3):
                await Session.execute(select(Entry))
                await opened.release()
                await opened.release()
                assert checked_out(single) == 0

    async def test_in_a_joined_block(self, Session: Sessions, single: AsyncEngine) -> None:
        @scope(propagation="join")
        async def ask_a_language_model() -> None:
            await Session.execute(select(Entry))
            await current_scope().release()
            assert checked_out(single) == 0

        async with scope(commit=True):
            await ask_a_language_model()
            await write(Session, "answer")
        assert await stored(single) == {"there", "answer"}

    async def test_no_callback_fires(self, Session: Sessions) -> None:
        for commit, fate in ((True, "committed"), (False, "committed")):
            log: list[str] = []
            async with scope(commit=commit) as opened:
                await Session.execute(select(Entry))
                opened.after_commit(log.append, "committed")
                opened.after_rollback(log.append, "rolled back")
                await opened.release()
                assert log == []
            assert log == [fate], "with the end of the scope, which finds no transaction"

        log = []
        async with scope() as opened:
            await Session.execute(select(Entry))
            opened.after_rollback(log.append, "rolled back")
            await opened.release()
            await write(Session, "lost")
        assert log == ["rolled back"]

    async def test_a_stream_that_is_read_to_its_end_or_closed_is_no_obstacle(
        self, Session: Sessions, single: AsyncEngine
    ) -> None:
        async with scope() as opened:
            assert [entry.text async for entry in await Session.stream_scalars(select(Entry))] == ["there"]
            await opened.release()
            await (await Session.stream(select(Entry))).all()
            await opened.release()
            await (await Session.stream(select(Entry))).first()
            await opened.release()
            await (await Session.stream(select(Entry))).close()
            await opened.release()
            async for _ in await Session.stream(text("SELECT * FROM generate_series(1, 1000)")):
                break
            await opened.release()  # nobody can read on
            await (await Session.stream(select(Entry))).fetchone()
            await Session.rollback()
            await Session.execute(select(Entry))
            await opened.release()
            with pytest.raises(LookupError):
                async with Session.begin():
                    await (await Session.stream(select(Entry))).fetchone()
                    raise LookupError
            await Session.execute(select(Entry))
            await opened.release()
            assert checked_out(single) == 0

    async def test_a_dead_scope_has_nothing_to_release(self) -> None:
        async with scope() as opened:
            pass
        with pytest.raises(ScopeClosedError):
            await opened.release()


WRITES: dict[str, Any] = {
    "an INSERT": insert(Entry).values(text="written"),
    "a raw UPDATE": text("UPDATE entries SET text = 'written'"),
    "SELECT FOR UPDATE": select(Entry).with_for_update(),
    "SELECT FOR KEY SHARE": select(Entry).with_for_update(read=True, key_share=True),
    "LOCK TABLE": text("LOCK TABLE entries IN SHARE MODE"),
    "an advisory lock": text("SELECT pg_advisory_xact_lock(1)"),
    "a temporary table": text("CREATE TEMPORARY TABLE written (id int) ON COMMIT DROP"),
}


class TestLaw29ItLosesNothing:
    """Where something would be lost, release() raises a ScopeError that helps, and changes nothing."""

    @pytest.mark.parametrize("what", WRITES)
    async def test_after_a_write_or_a_lock(self, what: str, Session: Sessions, single: AsyncEngine) -> None:
        async with scope(commit=True) as opened:
            await Session.execute(WRITES[what])
            before = await Session.scalar(text("SELECT now()"))
            await refuses(opened, "Commit or roll back first|Release the lock")
            assert checked_out(single) == 1
            assert await Session.scalar(text("SELECT now()")) == before, "the transaction goes on"
            if what == "an INSERT":
                assert "written" in (await Session.scalars(select(Entry.text))).all()
        if what == "an INSERT":
            assert await stored(single) == {"there", "written"}
        if what == "a raw UPDATE":
            assert await stored(single) == {"written"}

    async def test_after_an_update_by_flush(self, Session: Sessions, single: AsyncEngine) -> None:
        async with scope(commit=True) as opened:
            entry = (await Session.scalars(select(Entry))).one()
            entry.text = "flushed"
            await Session.flush()
            await refuses(opened, "written")
        assert await stored(single) == {"flushed"}

    @pytest.mark.parametrize("change", ["new", "dirty", "deleted"])
    async def test_with_pending_changes(self, change: str, Session: Sessions, single: AsyncEngine) -> None:
        async with scope(commit=True) as opened:
            entry = (await Session.scalars(select(Entry))).one()
            if change == "new":
                Session.add(Entry(text="pending"))
            elif change == "dirty":
                entry.text = "pending"
            else:
                await Session.delete(entry)
            await refuses(opened, "pending changes")
            assert entry in Session
        after = {"new": {"there", "pending"}, "dirty": {"pending"}, "deleted": set[str]()}
        assert await stored(single) == after[change]

    async def test_with_pending_changes_of_a_session_that_has_been_released(
        self, Session: Sessions, single: AsyncEngine
    ) -> None:
        async with scope(commit=True) as opened:
            entry = (await Session.scalars(select(Entry))).one()
            await opened.release()
            entry.text = "changed meanwhile"
            await refuses(opened, "pending changes")
        assert await stored(single) == {"changed meanwhile"}

    async def test_after_a_statement_that_failed_and_was_swallowed(self, Session: Sessions) -> None:
        async with scope() as opened:
            with pytest.raises(DBAPIError):
                await Session.execute(text("SELECT 1 / 0"))
            await refuses(opened, "failed. Roll back first")
            await Session.rollback()
            await Session.execute(select(Entry))
            await opened.release()

    async def test_on_a_connection_that_is_lost(self, Session: Sessions, engine: AsyncEngine) -> None:
        async with scope() as opened:
            pid = await Session.scalar(text("SELECT pg_backend_pid()"))
            async with engine.connect() as connection:
                await connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})
            with pytest.raises(DBAPIError):
                await opened.release()
            await refuses(opened, "connection was lost. Roll back first")

    async def test_inside_a_nested_block(self, Session: Sessions, single: AsyncEngine) -> None:
        async with scope(commit=True) as opened:
            for touch_before in (False, True):
                if touch_before:
                    await Session.execute(select(Entry))
                async with scope(propagation="nested"):
                    await refuses(opened, "nested block")
                    async with scope(propagation="join"):
                        await Session.execute(select(Entry))
                        await refuses(opened, "nested block")
                await opened.release()
            assert checked_out(single) == 0

    async def test_inside_begin_nested_and_begin(self, Session: Sessions, single: AsyncEngine) -> None:
        async with scope() as opened:
            async with Session.begin_nested():
                await Session.execute(select(Entry))
                await refuses(opened, "savepoint")
            await opened.release()
            async with Session.begin():
                await refuses(opened, r"begin\(\)")
                await Session.execute(select(Entry))
                await refuses(opened, r"begin\(\)")
            await Session.execute(select(Entry))
            await opened.release()
            assert checked_out(single) == 0

    @pytest.mark.parametrize("how", ["stream", "stream_scalars", "scalars of a stream", "untouched"])
    async def test_with_a_half_read_stream(self, how: str, Session: Sessions) -> None:
        numbers = text("SELECT * FROM generate_series(1, 5)")
        async with scope() as opened:
            stream: Any
            if how == "stream_scalars":
                stream = await Session.stream_scalars(numbers)
            elif how == "scalars of a stream":
                stream = (await Session.stream(numbers)).scalars()
            else:
                stream = await Session.stream(numbers)
            if how != "untouched":
                await anext(stream)
            await refuses(opened, "stream is half read")
            assert len(await stream.all()) == (5 if how == "untouched" else 4)
            await opened.release()

    async def test_with_a_statement_of_another_task_in_flight(self, Session: Sessions) -> None:
        async with scope() as opened:
            task = asyncio.create_task(Session.scalar(text("SELECT 'arrived' FROM pg_sleep(0.1)")))
            await asyncio.sleep(0)
            with pytest.raises(ConcurrentUseError, match="release"):
                await opened.release()
            assert await task == "arrived"
            await opened.release()

    async def test_of_several_sessions_all_are_released_or_none(
        self, Session: Sessions, single: AsyncEngine, engine: AsyncEngine
    ) -> None:
        Other: Sessions = AsyncScopedSession(async_sessionmaker(engine))
        resource = ScopedResource(list[str], rollback=list.clear)
        async with scope(commit=True) as opened:
            resource().append("kept")
            await Session.execute(select(Entry))
            await write(Other, "written")
            await refuses(opened, "written")
            assert (checked_out(single), checked_out(engine)) == (1, 1)
            await Other.commit()
            await Other.execute(select(Entry))
            await opened.release()
            assert (checked_out(single), checked_out(engine)) == (0, 0)
            assert resource() == ["kept"]

    async def test_it_never_makes_anything_durable(self, Session: Sessions, single: AsyncEngine) -> None:
        async with scope() as opened:
            await Session.execute(update(Entry).values(text="lost"))
            await refuses(opened, "written")
        assert await stored(single) == {"there"}


class TestLaw29Readonly:
    """Where the database cannot tell what was written, only a readonly scope may release."""

    async def test_on_sqlite(self, sqlite_engine: AsyncEngine) -> None:
        Session = await scoped_session(sqlite_engine)
        async with scope(commit=True) as opened:
            await write(Session, "there")
            await refuses(opened, r"readonly=True")
            await Session.commit()
            await Session.execute(select(Entry))
            await refuses(opened, r"readonly=True")
        async with scope(readonly=True) as opened:
            entry = (await Session.scalars(select(Entry))).one()
            await opened.release()
            assert checked_out(sqlite_engine) == 0
            assert entry.text == "there"
            await write(Session, "raw SQL that wrote")
            await opened.release()
            assert len((await Session.scalars(select(Entry))).all()) == 1
        assert await stored(sqlite_engine) == {"there"}

    async def test_on_postgres(self, Session: Sessions, single: AsyncEngine) -> None:
        async with scope(readonly=True) as opened:
            entry = (await Session.scalars(select(Entry))).one()
            await opened.release()
            assert checked_out(single) == 0
            assert entry.text == "there"

    async def test_an_advisory_lock_may_be_held_there_too(self, Session: Sessions) -> None:
        async with scope(readonly=True) as opened:
            await Session.execute(text("SELECT pg_advisory_xact_lock(1)"))
            await refuses(opened, "lock")

    async def test_an_advisory_lock_of_the_session_outlives_its_transaction(self, Session: Sessions) -> None:
        async with scope() as opened:
            await Session.execute(text("SELECT pg_advisory_lock(1)"))
            await refuses(opened, "Release the lock")
            await Session.execute(text("SELECT pg_advisory_unlock(1)"))
            await opened.release()
