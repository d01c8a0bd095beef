"""Law 23: what looks like a loss of work and is none."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from entries import Log, Sessions, asyncpg_of, scoped_session, stored, write
from scoped_async import ScopeError, current_scope, scope


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

    @pytest.mark.parametrize("again", [False, True])
    async def test_a_transaction_of_asyncpg_itself(
        self, again: bool, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """One that is begun before SQLAlchemy has sent anything, as around a COPY: its end is its own."""
        async with scope(commit=True):
            driver = await asyncpg_of(Session)
            if again:
                await write(Session, "lost")
                log.watch()
                await Session.run_sync(lambda session: session.connection().connection.rollback())
            log.watch()
            with pytest.raises(LookupError):
                async with driver.transaction():
                    await driver.execute("INSERT INTO entries (text) VALUES ('lost')")
                    raise LookupError
            await write(Session, "kept")
        assert log == [*(["rolled back"] if again else []), "committed"]
        assert await stored(engine) == {"kept"}

    @pytest.mark.parametrize("sql", ["ROLLBACK", "ROLLBACK; BEGIN"])
    async def test_what_is_registered_right_after(
        self, sql: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """asyncpg tells of its statements a turn of the loop later."""
        async with scope(commit=True):
            await write(Session, "lost")
            log.watch("before")
            await (await asyncpg_of(Session)).execute(sql)
            log.watch("after")
            await write(Session, "kept")
        assert log == ["before rolled back", "after committed"]

    async def test_what_was_read_and_given_back(self, Session: Sessions, log: Log) -> None:
        async with scope(commit=True) as opened:
            log.watch()
            await Session.connection()
            await opened.release()
            assert current_scope() is opened
        assert log == ["committed"]
