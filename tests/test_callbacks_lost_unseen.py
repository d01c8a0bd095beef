"""Law 23: work that is lost by another's hand than the proxy's, which SQLAlchemy's own objects offer."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
from asyncpg import PostgresError
from sqlalchemy import text
from sqlalchemy.exc import InterfaceError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from entries import Log, Sessions, asyncpg_of, scoped_session, stored, write
from scoped_async import AsyncScopedSession, RollbackOnlyError, scope


async def by_its_transaction(Session: Sessions) -> None:
    transaction = Session.get_transaction()
    assert transaction is not None
    await transaction.rollback()


async def by_run_sync(Session: Sessions) -> None:
    await Session.run_sync(lambda session: session.rollback())


async def by_a_close_in_run_sync(Session: Sessions) -> None:
    await Session.run_sync(lambda session: session.close())


async def by_the_session_itself(Session: Sessions) -> None:
    await Session().rollback()


async def by_a_close_of_the_session_itself(Session: Sessions) -> None:
    await Session().close()


async def by_a_block_of_the_session_itself(Session: Sessions) -> None:
    async with Session() as session:
        await write(session, "lost too")


async def by_a_statement(Session: Sessions) -> None:
    await Session.execute(text("-- enough\n rollback"))


async def by_another_statement(Session: Sessions) -> None:
    await Session.execute(text("/* all */ ROLLBACK WORK -- back to the start"))


async def by_a_statement_on_its_connection(Session: Sessions) -> None:
    connection = await Session.connection()
    await connection.exec_driver_sql("ABORT")


async def by_its_pooled_connection(Session: Sessions) -> None:
    await Session.run_sync(lambda session: session.connection().connection.rollback())


async def by_asyncpg(Session: Sessions) -> None:
    await (await asyncpg_of(Session)).execute("ROLLBACK")


async def by_asyncpg_that_begins_anew(Session: Sessions) -> None:
    await (await asyncpg_of(Session)).execute("SELECT ';'; ROLLBACK; BEGIN")


Loss = Callable[[Sessions], Awaitable[None]]

LOSSES = pytest.mark.parametrize(
    "lose",
    [
        by_its_transaction,
        by_run_sync,
        by_a_close_in_run_sync,
        by_the_session_itself,
        by_a_close_of_the_session_itself,
        by_a_block_of_the_session_itself,
        by_a_statement,
        by_another_statement,
        by_a_statement_on_its_connection,
        by_its_pooled_connection,
        by_asyncpg,
        by_asyncpg_that_begins_anew,
    ],
)


class CommitsItself(AsyncSession):
    async def commit(self) -> None:
        await super().commit()


class TestLaw23WorkThatIsLostNeverFiresAfterCommit:
    """A rollback or close that goes past the proxy: after_commit does not fire, after_rollback does, once."""

    @LOSSES
    async def test_at_the_exit(self, lose: Loss, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            await write(Session, "lost")
            log.watch()
            await lose(Session)
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    @LOSSES
    async def test_registered_before_the_session_was_touched(
        self, lose: Loss, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            log.watch()
            await write(Session, "lost")
            await lose(Session)
        assert log == ["rolled back"]

    @LOSSES
    async def test_what_comes_after_has_a_fate_of_its_own(
        self, lose: Loss, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "lost")
            log.watch("before")
            await lose(Session)
            await write(Session, "kept")
            log.watch("after")
        assert log == ["before rolled back", "after committed"]
        assert await stored(engine) == {"kept"}

    @LOSSES
    @pytest.mark.parametrize("how", ["Session.commit", "scope.commit"])
    async def test_a_commit_in_the_body_runs_them(
        self, how: str, lose: Loss, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope() as opened:
            await write(Session, "lost")
            log.watch("before")
            await lose(Session)
            await write(Session, "kept")
            log.watch("after")
            await (Session if how == "Session.commit" else opened).commit()
            assert log == ["before rolled back", "after committed"]

    @LOSSES
    async def test_of_a_session_that_the_registry_was_given(
        self, lose: Loss, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            log.watch()
            Session.registry.set(async_sessionmaker(engine)())
            await write(Session, "lost")
            await lose(Session)
        assert log == ["rolled back"]

    @LOSSES
    async def test_of_a_class_with_a_commit_of_its_own(
        self, lose: Loss, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        Session = AsyncScopedSession(async_sessionmaker(engine, class_=CommitsItself))
        async with scope(commit=True):
            await write(Session, "kept")
            await Session.commit()
            await write(Session, "lost")
            log.watch()
            await lose(Session)
        assert log == ["rolled back"]
        assert await stored(engine) == {"kept"}

    async def test_of_one_of_two_sessions(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        Other = AsyncScopedSession(async_sessionmaker(engine))
        async with scope(commit=True):
            await write(Session, "lost")
            await write(Other, "kept")
            log.watch()
            await Session().rollback()
        assert log == ["rolled back"], "not all of the work was committed"
        assert await stored(engine) == {"kept"}

    async def test_in_a_joined_block(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True), scope(propagation="join"):
            await write(Session, "lost")
            log.watch()
            await Session().rollback()
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    @pytest.mark.parametrize("driver", ["asyncpg", "aiosqlite"])
    async def test_by_its_connection(
        self, driver: str, Session: Sessions, sqlite_engine: AsyncEngine, log: Log
    ) -> None:
        """SQLAlchemy refuses a commit after that; of sqlite's driver nobody hears."""
        if driver == "aiosqlite":
            Session = await scoped_session(sqlite_engine)
        async with scope():
            await write(Session, "lost")
            log.watch()
            await (await Session.connection()).rollback()
        assert log == (["rolled back"] if driver == "asyncpg" else [])

    async def test_by_the_end_of_the_connection(self, Session: Sessions, log: Log) -> None:
        with pytest.raises(InterfaceError, match="connection is closed"):
            async with scope(commit=True):
                await write(Session, "lost")
                log.watch()
                (await asyncpg_of(Session)).terminate()
        assert log == ["rolled back"]

    @pytest.mark.parametrize("how", ["exit", "Session.commit"])
    async def test_what_failed_on_asyncpg_and_was_swallowed(
        self, how: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """PostgreSQL would turn the COMMIT into a ROLLBACK."""
        with pytest.raises(RollbackOnlyError):
            async with scope(commit=how == "exit"):
                await write(Session, "lost")
                log.watch()
                with suppress(PostgresError):
                    await (await asyncpg_of(Session)).execute("SELECT nothing")
                if how == "Session.commit":
                    await Session.commit()
        assert log == ["rolled back"]
        assert await stored(engine) == set()
