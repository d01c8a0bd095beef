"""Law 23: what becomes of the work is not known, or is told of another scope's session."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from entries import (
    Entry,
    Log,
    Sessions,
    asyncpg_of,
    break_the_commit,
    die_at_commit,
    scoped_session,
    stored,
    write,
)
from scoped_async import AsyncScopedSession, current_scope, scope
from scoped_async._heard import HeardConnection


async def by_a_commit(Session: Sessions) -> None:
    await Session.commit()


async def by_a_rollback(Session: Sessions) -> None:
    await Session.rollback()


async def by_a_removal(Session: Sessions) -> None:
    await Session.remove()


async def by_nothing(Session: Sessions) -> None:
    pass


async def by_a_release(Session: Sessions) -> None:
    await current_scope().release()


async def by_the_real_session(Session: Sessions) -> None:
    await Session().commit()


async def by_its_transaction_itself(Session: Sessions) -> None:
    transaction = Session.get_transaction()
    assert transaction is not None
    await transaction.commit()


Act = Callable[[Sessions], Awaitable[None]]


class TestLaw23NobodyKnows:
    """What was ended past SQLAlchemy's session may be committed or not: neither runs."""

    @pytest.mark.parametrize("end", [by_a_commit, by_a_rollback, by_a_release])
    async def test_by_the_driver(self, end: Act, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            await write(Session, "a line")
            log.watch("before")
            await (await asyncpg_of(Session)).execute("COMMIT")
            await end(Session)
            log.watch("after")
        assert log == ["after committed"]
        assert await stored(engine) == {"a line"}

    @pytest.mark.parametrize("statement", ["rollback", "commit"])
    async def test_by_the_driver_of_sqlite(
        self, statement: str, sqlite_engine: AsyncEngine, log: Log
    ) -> None:
        Session = await scoped_session(sqlite_engine)
        async with scope(commit=True):
            await write(Session, "a line")
            log.watch("before")
            connection = await (await Session().connection()).get_raw_connection()
            assert connection.driver_connection is not None
            await getattr(connection.driver_connection, statement)()
        assert log == []
        assert await stored(sqlite_engine) == ({"a line"} if statement == "commit" else set())

    async def test_by_the_connection(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope():
            await write(Session, "a line")
            log.watch()
            await (await Session.connection()).commit()
        assert log == []
        assert await stored(engine) == {"a line"}

    async def test_by_a_statement(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope():
            await write(Session, "a line")
            log.watch()
            await Session.execute(text("COMMIT"))
        assert log == []
        assert await stored(engine) == {"a line"}

    @pytest.mark.parametrize("statement", ["COMMIT", "COMMIT AND CHAIN", "COMMIT; BEGIN"])
    async def test_by_a_commit_after_which_it_goes_on(
        self, statement: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope():
            await write(Session, "a line")
            log.watch("before")
            if statement == "COMMIT; BEGIN":
                await (await asyncpg_of(Session)).execute(statement)
            else:
                await Session.execute(text(statement))
            log.watch("after")
            await Session.execute(text("ROLLBACK"))
        assert log == ["after rolled back"]
        assert await stored(engine) == {"a line"}

    async def test_by_a_commit_of_its_pooled_connection(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope():
            await write(Session, "a line")
            log.watch("before")
            await Session.run_sync(lambda session: session.connection().connection.commit())
            log.watch("after")
            await write(Session, "lost")
        assert log == ["after rolled back"]
        assert await stored(engine) == {"a line"}

    @pytest.mark.parametrize("commit", [by_the_real_session, by_its_transaction_itself])
    async def test_a_commit_past_the_proxy_that_was_not_answered(
        self, commit: Act, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        await die_at_commit(engine)
        async with scope():
            await write(Session, "perhaps")
            log.watch()
            with pytest.raises(Exception, match=r"closed|terminat"):
                await commit(Session)
        assert log == []

    @pytest.mark.parametrize("commit", [by_the_real_session, by_its_transaction_itself])
    async def test_unless_it_was_refused(
        self, commit: Act, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope():
            await break_the_commit(Session)
            log.watch()
            with pytest.raises(IntegrityError):
                await commit(Session)
        assert log == ["rolled back"]


class TestLaw23ASessionThatLivesLonger:
    """One that many scopes are given lets go of those before, and their fate is their own."""

    @pytest.mark.parametrize("end", [by_nothing, by_a_commit, by_a_rollback, by_a_removal])
    @pytest.mark.parametrize("readonly", [False, True])
    async def test_of_a_factory_that_makes_one_session(
        self, readonly: bool, end: Act, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        one = async_sessionmaker(engine)()
        Session = AsyncScopedSession(lambda: one)
        ended: list[weakref.ref[object]] = []
        for _ in range(3):
            async with scope(readonly=readonly) as opened:
                log.watch()
                await Session.execute(select(Entry))
                await end(Session)
                ended.append(weakref.ref(opened))
            del opened
        await asyncio.sleep(0)  # the task that has closed the last one ends
        gc.collect()
        assert [reference() for reference in ended] == [None] * 3
        async with scope(commit=True):
            await write(Session, "kept")
            log.watch("last")
        assert log == ["committed" if end is by_a_commit else "rolled back"] * 3 + ["last committed"]
        assert await stored(engine) == {"kept"}

    async def test_of_a_connection_that_goes_back_to_the_pool(self, Session: Sessions, log: Log) -> None:
        """asyncpg has a list of those who hear of its statements, for as long as it is connected."""
        for _ in range(3):
            async with scope():
                await Session.execute(select(Entry))
                log.watch()
        gc.collect()
        assert not [each for each in gc.get_objects() if isinstance(each, HeardConnection)]
