"""is_retryable, and a retry library above a scope."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import stamina
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from entries import Entry, Sessions, break_the_commit, scoped_session, stored, write
from scoped_async import (
    AsyncScopedSession,
    RollbackOnlyError,
    ScopeCleanupError,
    create_task_group,
    is_retryable,
    scope,
)


async def end_the_server_process(Session: Sessions, engine: AsyncEngine) -> None:
    """End the process that serves the session, from outside, and return when it is gone."""
    pid = await Session.scalar(text("SELECT pg_backend_pid()"))
    async with engine.connect() as connection:
        await connection.execute(text("SELECT pg_terminate_backend(:pid, 10000)"), {"pid": pid})


class TestIsRetryable:
    """True for 40001, 40P01 and a connection lost before a commit was sent, and for nothing else."""

    async def test_a_serialization_failure_in_the_body_and_of_the_commit(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        Serializable = AsyncScopedSession(
            async_sessionmaker(engine.execution_options(isolation_level="SERIALIZABLE"))
        )
        for at_commit in (True, False):
            with pytest.raises(DBAPIError) as raised:
                async with scope(commit=True):
                    count = await Serializable.scalar(select(func.count()).select_from(Entry))
                    async with scope(commit=True):
                        await Serializable.execute(select(Entry))
                        await write(Serializable, f"inner {count}")
                    await write(Serializable, f"outer {count}")
                    if not at_commit:
                        await Serializable.flush()
            assert getattr(raised.value.orig, "sqlstate", None) == "40001"
            assert is_retryable(raised.value)

    async def test_a_deadlock(self, Session: Sessions) -> None:
        async def lock(first: int, second: int, barrier: asyncio.Barrier) -> None:
            await Session.execute(text("SET LOCAL deadlock_timeout = '10ms'"))
            await Session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": first})
            await barrier.wait()
            await Session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": second})

        barrier = asyncio.Barrier(2)
        with pytest.raises(ExceptionGroup) as raised:
            async with create_task_group() as tg:
                tg.start_soon(lock, 1, 2, barrier)
                tg.start_soon(lock, 2, 1, barrier)
        assert is_retryable(raised.value)
        assert is_retryable(raised.value.exceptions[0])

    async def test_a_connection_lost_between_statements(self, Session: Sessions, engine: AsyncEngine) -> None:
        with pytest.raises(DBAPIError) as raised:
            async with scope(commit=True):
                await write(Session, "lost")
                await end_the_server_process(Session, engine)
                await write(Session, "never")
        assert is_retryable(raised.value)
        assert await stored(engine) == set()

    async def test_a_connection_that_was_lost_before_the_commit_was_sent(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        fired: list[str] = []
        with pytest.raises(DBAPIError, match="connection is closed") as raised:
            async with scope(commit=True) as opened:
                await write(Session, "lost")
                opened.after_rollback(fired.append, "rolled back")
                driver: Any = (await (await Session.connection()).get_raw_connection()).driver_connection
                noticed = asyncio.Event()
                driver.add_termination_listener(lambda _: noticed.set())
                await end_the_server_process(Session, engine)
                await noticed.wait()
        assert is_retryable(raised.value)
        assert fired == ["rolled back"]
        assert not hasattr(raised.value, "__notes__")
        assert await stored(engine) == set()

    async def test_a_connection_lost_in_the_middle_of_a_statement(self, Session: Sessions) -> None:
        with pytest.raises(DBAPIError) as raised:
            async with scope(commit=True):
                await Session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert is_retryable(raised.value)

    async def test_behind_a_joined_block_that_swallowed_it(self, Session: Sessions) -> None:
        with pytest.raises(RollbackOnlyError) as raised:
            async with scope(commit=True):
                with pytest.raises(DBAPIError):
                    async with scope(propagation="join"):
                        await Session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert is_retryable(raised.value)

    async def test_never_where_the_outcome_of_the_commit_is_unknown(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "CREATE OR REPLACE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
                    "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"
                )
            )
            await connection.execute(
                text(
                    "CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED "
                    "FOR EACH ROW EXECUTE FUNCTION die()"
                )
            )
        with pytest.raises(DBAPIError) as raised:
            async with scope(commit=True):
                await write(Session, "who knows")
        assert "unknown" in raised.value.__notes__[0]
        assert not is_retryable(raised.value)
        assert not is_retryable(ScopeCleanupError("the commit timed out"))

    async def test_nothing_else(self, Session: Sessions) -> None:
        with pytest.raises(IntegrityError) as raised:
            async with scope(commit=True):
                await break_the_commit(Session)
        for error in (
            raised.value, LookupError(), OSError(), asyncio.CancelledError(), RollbackOnlyError(),
            ExceptionGroup("one of each", [LookupError(), raised.value]),
        ):  # fmt: skip
            assert not is_retryable(error)

    async def test_a_group_only_when_all_of_it_is(self, Session: Sessions) -> None:
        with pytest.raises(DBAPIError) as raised:
            async with scope():
                await Session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        assert is_retryable(ExceptionGroup("all", [raised.value, raised.value]))
        assert not is_retryable(ExceptionGroup("not all", [raised.value, LookupError()]))


class TestRetryOverAScope:
    """@stamina.retry(on=is_retryable) above @scope(commit=True) runs the whole unit again."""

    @pytest.fixture
    async def serializable(self, postgres_url: str) -> AsyncIterator[AsyncEngine]:
        engine = create_async_engine(
            postgres_url, pool_size=8, max_overflow=0, isolation_level="SERIALIZABLE"
        )
        yield engine
        await engine.dispose()

    async def test_eight_writers_that_skew_each_other_each_arrive_exactly_once(
        self, serializable: AsyncEngine
    ) -> None:
        Session = await scoped_session(serializable)
        attempts = 0
        all_have_read = asyncio.Barrier(8)

        @stamina.retry(on=is_retryable, attempts=5)
        @scope(commit=True)
        async def increment(first: list[bool]) -> None:
            nonlocal attempts
            attempts += 1
            count = await Session.scalar(select(func.count()).select_from(Entry))
            if first:
                first.clear()
                await all_have_read.wait()
            await Session.execute(insert(Entry).values(text=f"the sum was {count}"))

        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(increment([True]))
        assert attempts > 8, "they did get into each other's way"
        assert await stored(serializable) == {f"the sum was {count}" for count in range(8)}
