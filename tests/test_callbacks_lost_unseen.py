"""Law 23: work that is lost by another's hand than the proxy's, which SQLAlchemy's own objects offer."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from entries import Log, Sessions, scoped_session, stored, write
from scoped_async import AsyncScopedSession, ScopeError, current_scope, scope


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
    ],
)


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


class TestLaw23WhatIsNoLoss:
    """What ends a transaction without losing anything does not count as a rollback."""

    async def test_a_commit_by_the_session_itself(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            log.watch()
            await Session().commit()
        assert log == ["committed"]
        assert await stored(engine) == {"kept"}

    async def test_a_savepoint_that_is_undone_by_the_session_itself(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            log.watch()
            savepoint = await Session().begin_nested()
            await write(Session, "undone")
            await savepoint.rollback()
        assert log == ["committed"]
        assert await stored(engine) == {"kept"}

    @pytest.mark.parametrize("statement", ["SELECT 'rollback'", "ROLLBACK TO before"])
    async def test_a_statement_that_rolls_nothing_back(
        self, statement: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            log.watch()
            await Session.execute(text("SAVEPOINT before"))
            await Session.execute(text(statement))
        assert log == ["committed"]
        assert await stored(engine) == {"kept"}

    @pytest.mark.parametrize("how", ["exit", "Session.commit", "begin"])
    async def test_a_commit_in_autocommit(
        self, how: str, engine: AsyncEngine, tmp_path: Path, log: Log
    ) -> None:
        urls: list[Any] = [f"sqlite+aiosqlite:///{tmp_path / 'file.db'}", "sqlite+aiosqlite://", engine.url]
        for url in urls:
            autocommit = create_async_engine(url, isolation_level="AUTOCOMMIT")
            Session = await scoped_session(autocommit)
            async with scope(commit=how == "exit"):
                log.watch()
                async with Session.begin() if how == "begin" else nullcontext():
                    await write(Session, "kept")
                if how == "Session.commit":
                    await Session.commit()
            assert await stored(autocommit) == {"kept"}
            await autocommit.dispose()
        assert log == ["committed"] * 3

    @pytest.mark.parametrize("listens", [False, True])
    async def test_a_commit_of_sqlite_in_memory(self, listens: bool, log: Log) -> None:
        engine = create_async_engine("sqlite+aiosqlite://")
        if listens:
            event.listen(engine.sync_engine, "begin", lambda _: None)
        Session = await scoped_session(engine)
        async with scope(commit=True):
            log.watch()
            await write(Session, "kept")
            with pytest.raises(ScopeError, match="emits no BEGIN"):
                async with scope(propagation="nested"):
                    pass
        assert log == ["committed"]
        assert await stored(engine) == {"kept"}
        await engine.dispose()

    async def test_what_was_read_and_given_back(self, Session: Sessions, log: Log) -> None:
        async with scope(commit=True) as opened:
            log.watch()
            await Session.connection()
            await opened.release()
            assert current_scope() is opened
        assert log == ["committed"]
