"""Law 20: no commit that failed is swallowed, nor one that the server turned into a rollback."""

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session as SyncSession

from scoped_async import RollbackOnlyError, is_retryable, scope
from watch import PID, Item, Proxy, Watching, names, out

BROKEN = text("SELECT 1 / 0")


async def by_the_proxy(Session: Proxy) -> None:
    with pytest.raises(DBAPIError):
        await Session.execute(BROKEN)


async def by_the_real_session(Session: Proxy) -> None:
    with pytest.raises(DBAPIError):
        await Session().execute(BROKEN)


async def by_connection(Session: Proxy) -> None:
    with pytest.raises(DBAPIError):
        await (await Session.connection()).execute(BROKEN)


async def by_the_driver(Session: Proxy) -> None:
    raw = await (await Session.connection()).get_raw_connection()
    assert raw.driver_connection is not None
    with pytest.raises(Exception, match="division by zero"):
        await raw.driver_connection.execute("SELECT 1 / 0")


async def by_run_sync(Session: Proxy) -> None:
    def fail(session: SyncSession) -> None:
        with pytest.raises(DBAPIError):
            session.execute(BROKEN)

    await Session.run_sync(fail)


async def by_a_cursor_in_run_sync(Session: Proxy) -> None:
    def fail(session: SyncSession) -> None:
        cursor = session.connection().connection.cursor()
        with pytest.raises(Exception, match="division by zero"):
            cursor.execute("SELECT 1 / 0")

    await Session.run_sync(fail)


async def by_a_stream(Session: Proxy) -> None:
    stream = await Session.stream(text("SELECT 1 / (300 - n) FROM generate_series(1, 300) AS n"))
    with pytest.raises(Exception, match="division by zero"):  # of the driver, on some versions
        await stream.all()


def by_a_hook(name: str) -> Callable[[Proxy], Awaitable[None]]:
    async def by_hook(Session: Proxy) -> None:
        @event.listens_for(Session().sync_session, name)
        def fail(session: SyncSession, *_: object) -> None:
            with pytest.raises(DBAPIError):
                session.connection().execute(BROKEN)

        Session.add(Item(id=2, name="flushed within the commit"))

    by_hook.__name__ = f"by_a_hook_{name}"
    return by_hook


SWALLOWED = [
    by_the_proxy, by_the_real_session, by_connection, by_the_driver, by_run_sync, by_a_cursor_in_run_sync,
    by_a_stream, by_a_hook("before_flush"), by_a_hook("after_flush"),
    by_a_hook("after_flush_postexec"), by_a_hook("before_commit"),
]  # fmt: skip


async def by_a_timeout(Session: Proxy) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await Session.execute(text("SELECT pg_sleep(60)"))


async def by_the_server(Session: Proxy) -> None:
    with pytest.raises(DBAPIError):
        await Session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


async def at_the_exit(Session: Proxy, fail: Callable[[Proxy], Awaitable[None]]) -> None:
    async with scope(commit=True):
        Session.add(Item(id=1, name="lost"))
        await Session.flush()
        await fail(Session)


async def by_session_commit(Session: Proxy, fail: Callable[[Proxy], Awaitable[None]]) -> None:
    async with scope():
        Session.add(Item(id=1, name="lost"))
        await Session.flush()
        await fail(Session)
        await Session.commit()


async def by_scope_commit(Session: Proxy, fail: Callable[[Proxy], Awaitable[None]]) -> None:
    async with scope() as current:
        Session.add(Item(id=1, name="lost"))
        await Session.flush()
        await fail(Session)
        await current.commit()


async def by_begin(Session: Proxy, fail: Callable[[Proxy], Awaitable[None]]) -> None:
    async with scope(), Session.begin():
        Session.add(Item(id=1, name="lost"))
        await Session.flush()
        await fail(Session)


async def by_nested(Session: Proxy, fail: Callable[[Proxy], Awaitable[None]]) -> None:
    async with scope(commit=True):
        Session.add(Item(id=1, name="lost"))
        async with scope(propagation="nested"):
            await fail(Session)


class TestLaw20AFailedCommitIsRaised(Watching):
    """Where the scope is left, with everything rolled back; also when the server was silent about it."""

    async def test_at_the_exit_and_everything_is_rolled_back(
        self, Session: Proxy, engine: AsyncEngine
    ) -> None:
        pids: list[int | None] = []
        with pytest.raises(IntegrityError):
            async with scope(commit=True):
                pids.append(await Session.scalar(PID))
                Session.add_all([Item(id=1, name="twice"), Item(id=2, name="twice")])
        assert out(engine) == 0
        assert await names(Session) == []
        async with scope():
            assert await Session.scalar(PID) in pids, "the connection is in order: the server has answered"

    async def test_in_the_body_and_the_scope_goes_on(self, Session: Proxy) -> None:
        async with scope(commit=True):
            Session.add_all([Item(id=1, name="twice"), Item(id=2, name="twice")])
            with pytest.raises(IntegrityError):
                await Session.commit()
            Session.add(Item(id=3, name="once"))
        assert await names(Session) == ["once"]

    @pytest.mark.parametrize("commit", [at_the_exit, by_session_commit, by_scope_commit, by_begin])
    @pytest.mark.parametrize("fail", SWALLOWED)
    async def test_a_swallowed_failure_of_a_statement_fails_the_commit(
        self,
        Session: Proxy,
        fail: Callable[[Proxy], Awaitable[None]],
        commit: Callable[[Proxy, Callable[[Proxy], Awaitable[None]]], Awaitable[None]],
    ) -> None:
        with pytest.raises((RollbackOnlyError, DBAPIError)) as failure:
            await commit(Session, fail)
        if isinstance(failure.value, RollbackOnlyError):
            assert "a statement in its transaction failed, the error was swallowed" in str(failure.value)
            assert re.search("division by zero|transaction is aborted", str(failure.value.__cause__))
        else:
            assert "current transaction is aborted" in str(failure.value)
        assert await names(Session) == []

    async def test_a_flush_that_failed_and_was_swallowed(self, Session: Proxy) -> None:
        with pytest.raises(PendingRollbackError):
            async with scope(commit=True):
                await Session.execute(insert(Item).values(id=1, name="lost"))
                Session.add(Item(id=1, name="the same key"))
                with pytest.raises(IntegrityError):
                    await Session.flush()
        assert await names(Session) == []

    @pytest.mark.parametrize("commit", [at_the_exit, by_session_commit, by_scope_commit, by_begin, by_nested])
    @pytest.mark.parametrize("lose", [by_a_timeout, by_the_server])
    async def test_a_swallowed_loss_of_the_connection_fails_the_commit(
        self,
        Session: Proxy,
        engine: AsyncEngine,
        lose: Callable[[Proxy], Awaitable[None]],
        commit: Callable[[Proxy, Callable[[Proxy], Awaitable[None]]], Awaitable[None]],
    ) -> None:
        with pytest.raises(RollbackOnlyError, match="its connection was lost in the middle of") as failure:
            await commit(Session, lose)
        assert is_retryable(failure.value) is (lose is by_the_server)
        assert out(engine) == 0
        assert await names(Session) == []

    @pytest.mark.parametrize("lose", [by_the_proxy, by_a_timeout])
    async def test_in_a_nested_block_that_was_the_first_to_use_the_session(
        self, Session: Proxy, lose: Callable[[Proxy], Awaitable[None]]
    ) -> None:
        async with scope(commit=True):
            with pytest.raises(RollbackOnlyError):
                async with scope(propagation="nested"):
                    await Session.execute(insert(Item).values(id=1, name="lost"))
                    await lose(Session)
            await Session.execute(insert(Item).values(id=2, name="kept"))
        assert await names(Session) == ["kept"]

    async def test_what_was_undone_to_a_savepoint_does_not_stop_a_commit(self, Session: Proxy) -> None:
        async with scope(commit=True):
            Session.add(Item(id=1, name="kept"))
            for fail in (by_the_proxy, by_the_real_session, by_connection, by_the_driver, by_run_sync):
                with pytest.raises(ZeroDivisionError):
                    async with Session.begin_nested():
                        await fail(Session)
                        raise ZeroDivisionError
            with pytest.raises(DBAPIError):
                async with scope(propagation="nested"):
                    await Session.execute(BROKEN)
        assert await names(Session) == ["kept"]

    async def test_an_error_that_spoils_nothing_does_not_stop_a_commit(self, Session: Proxy) -> None:
        async with scope(commit=True):
            Session.add(Item(id=1, name="kept"))
            with pytest.raises(Exception, match="No row was found"):
                await Session.get_one(Item, 99)
            with pytest.raises(Exception, match="value is required"):
                await Session.execute(text("SELECT :missing"))
        assert await names(Session) == ["kept"]
