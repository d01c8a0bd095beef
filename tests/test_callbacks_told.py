"""Law 23: what asyncpg is told past SQLAlchemy: its own transactions, and what failed or was cut off."""

import asyncio
import warnings

import asyncpg
import pytest
from asyncpg import PostgresError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from entries import Log, Sessions, asyncpg_of, stored, write
from scoped_async import AsyncScopedSession, RollbackOnlyError, scope
from watch import is_asleep, until


async def within_a_savepoint(Session: Sessions, log: Log) -> asyncpg.Connection:
    """Write and watch a line before a savepoint of asyncpg's, and one within; returns its connection."""
    await write(Session, "kept")
    log.watch("outer")
    driver = await asyncpg_of(Session)
    await driver.execute("SAVEPOINT a")
    await write(Session, "lost")
    log.watch("inner")
    return driver


class TestLaw23WhatAsyncpgWasGivenAndFailed:
    """What it had done by then is not known."""

    async def test_the_last_of_several(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            driver = await within_a_savepoint(Session, log)
            with pytest.raises(PostgresError):
                await driver.execute("ROLLBACK TO a; SAVEPOINT b; SAVEPOINT c; RELEASE c; SELECT nothing")
            log.watch("after")
            await driver.execute("ROLLBACK TO b")
        assert log == ["outer committed", "after rolled back"]
        assert await stored(engine) == {"kept"}

    async def test_a_release_that_was_not_reached(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            driver = await within_a_savepoint(Session, log)
            with pytest.raises(PostgresError):
                await driver.execute("SELECT nothing; RELEASE a")
            await driver.execute("ROLLBACK TO a")
        assert log == ["outer committed", "inner rolled back"]
        assert await stored(engine) == {"kept"}

    async def test_a_commit_that_was_a_rollback(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """As PostgreSQL makes of it after a failure."""
        with pytest.raises(RollbackOnlyError):
            async with scope(commit=True):
                await write(Session, "lost")
                log.watch()
                driver = await asyncpg_of(Session)
                with pytest.raises(PostgresError):
                    await driver.execute("SELECT nothing")
                await driver.execute("COMMIT")
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    async def test_one_that_was_cut_off(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            driver = await within_a_savepoint(Session, log)
            sending = asyncio.create_task(driver.execute("ROLLBACK TO a; SELECT pg_sleep(3600)"))
            await until(lambda: is_asleep(engine, driver.get_server_pid()))
            sending.cancel()
            await asyncio.wait([sending])
            await driver.execute("ROLLBACK TO a")
        assert log == ["outer committed"]
        assert await stored(engine) == {"kept"}

    async def test_a_single_one_that_was_refused(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """It has done nothing, but for the transaction that goes on by a savepoint alone."""
        async with scope(commit=True):
            driver = await within_a_savepoint(Session, log)
            with pytest.raises(PostgresError):
                await driver.execute("ROLLBACK TO nothing;")
            await driver.execute("ROLLBACK TO a")
        assert log == ["outer committed", "inner rolled back"]
        assert await stored(engine) == {"kept"}


class TestLaw23OfAsyncpg:
    """Its transactions, where SQLAlchemy has begun none: each is lost or kept by itself."""

    async def test_a_transaction_of_asyncpg_before_sqlalchemy_has_sent_anything(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """As around a COPY: what is registered within is lost with it, and what was before is not."""
        async with scope(commit=True):
            driver = await asyncpg_of(Session)
            for name in ("first", "second"):
                with pytest.raises(LookupError):
                    async with driver.transaction():
                        await driver.copy_records_to_table("entries", records=[("lost",)], columns=["text"])
                        log.watch(name)
                        raise LookupError
                log.watch(f"after the {name}")
            await write(Session, "kept")
        assert sorted(log) == [
            "after the first committed",
            "after the second committed",
            "first rolled back",
            "second rolled back",
        ]
        assert await stored(engine) == {"kept"}

    async def test_a_begin_that_begins_nothing(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "lost")
            log.watch()
            driver = await asyncpg_of(Session)
            await driver.execute("BEGIN")  # PostgreSQL warns that there is a transaction in progress
            await driver.execute("ROLLBACK")
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    async def test_one_that_is_committed(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            driver = await asyncpg_of(Session)
            log.watch("before")
            async with driver.transaction():
                await driver.execute("INSERT INTO entries (text) VALUES ('stored')")
                log.watch("within")
            await write(Session, "kept")
        assert log == ["before committed", "within committed"]
        assert await stored(engine) == {"stored", "kept"}

    async def test_in_autocommit(self, engine: AsyncEngine, Session: Sessions, log: Log) -> None:
        """There a ROLLBACK undoes what asyncpg's own transaction has done, and nothing without one."""
        autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
        Session = AsyncScopedSession(async_sessionmaker(autocommit))
        async with scope(commit=True):
            await write(Session, "kept")
            log.watch("outer")
            with warnings.catch_warnings(action="ignore"):  # PostgreSQL's, that there is no transaction
                await Session.execute(text("ROLLBACK"))
            driver = await asyncpg_of(Session)
            with pytest.raises(LookupError):
                async with driver.transaction():
                    await write(Session, "lost")
                    log.watch("inner")
                    raise LookupError
        assert sorted(log) == ["inner rolled back", "outer committed"]
        assert await stored(engine) == {"kept"}
