"""Law 23: the callbacks of work that is rolled back, or whose commit fails."""

import asyncio

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import Entry, Log, Sessions, break_the_commit, die_at_commit, scoped_session, stored, write
from scoped_async import (
    RollbackOnlyError,
    current_scope,
    scope,
)


class TestLaw23RolledBack:
    """after_rollback: a rollback, or what stands in its place, a failed commit, or an exit without commit."""

    async def test_an_exit_by_an_exception(self, Session: Sessions, log: Log) -> None:
        for error in (LookupError(), asyncio.CancelledError(), GeneratorExit()):
            with pytest.raises(type(error)):
                async with scope(commit=True):
                    await write(Session, "one")
                    log.watch()
                    raise error
            assert log.pop() == "rolled back"
            with pytest.raises(type(error)):
                async with scope(commit=True):
                    log.watch("without a session")
                    raise error
            assert log.pop() == "without a session rolled back"
        assert log == []

    async def test_a_clean_exit_without_commit_of_a_session_in_a_transaction(
        self, Session: Sessions, log: Log
    ) -> None:
        async with scope():
            await write(Session, "one")
            log.watch()
        assert log == ["rolled back"]

    async def test_a_rollback_asked_for(self, Session: Sessions, log: Log) -> None:
        async with scope() as opened:
            for rollback in (Session.rollback, opened.rollback):
                log.watch("no work")
                await rollback()
                assert log.pop() == "no work rolled back"
                await write(Session, "one")
                log.watch()
                await rollback()
                assert log.pop() == "rolled back"
            transaction = await Session.begin()
            log.watch("begin")
            await transaction.rollback()
            assert log.pop() == "begin rolled back"
            with pytest.raises(LookupError):
                async with Session.begin():
                    log.watch("the end of begin")
                    raise LookupError
        assert log == ["the end of begin rolled back"]

    @pytest.mark.parametrize("ending", ["close", "aclose", "reset", "invalidate", "remove"])
    async def test_an_end_of_the_session_in_the_place_of_a_rollback(
        self, ending: str, Session: Sessions, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "lost")
            log.watch("before")
            await getattr(Session, ending)()
            assert log == ["before rolled back"]
            log.watch("after")
            await getattr(Session, ending)()
            assert log == ["before rolled back"], "nothing was in its place"
            await write(Session, "kept")
        assert log == ["before rolled back", "after committed"]

    @pytest.mark.parametrize("ending", ["clear", "set"])
    @pytest.mark.parametrize("commit", [True, False])
    async def test_the_registry_replaces_a_session_and_they_run_at_the_exit_at_the_latest(
        self, commit: bool, ending: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=commit):
            await write(Session, "lost")
            log.watch("before")
            if ending == "clear":
                Session.registry.clear()
            else:
                Session.registry.set(Session.session_factory())
            log.watch("after")
        assert log == ["before rolled back", "after committed"]
        assert await stored(engine) == set()

    async def test_a_replaced_session_does_not_hold_up_the_fate_of_the_next(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope():
            await write(Session, "lost")
            log.watch("before")
            Session.registry.clear()
            await write(Session, "kept")
            log.watch("after")
            await Session.commit()
            assert log == ["before rolled back", "after committed"]
        assert await stored(engine) == {"kept"}

    async def test_a_connection_was_lost_and_the_body_goes_on(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "lost")
            log.watch("before")
            with pytest.raises(DBAPIError):
                await Session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
            await Session.rollback()
            assert log == ["before rolled back"]
            await write(Session, "kept")
            log.watch("after")
        assert log == ["before rolled back", "after committed"]
        assert await stored(engine) == {"kept"}

    async def test_a_scope_marked_by_hand(self, Session: Sessions, log: Log) -> None:
        for touch in (True, False):
            async with scope(commit=True) as opened:
                if touch:
                    await write(Session, "one")
                log.watch()
                opened.rollback_only = True
            assert log.pop() == "rolled back"
        assert log == []

    async def test_a_joined_block_that_failed(self, Session: Sessions, log: Log) -> None:
        with pytest.raises(RollbackOnlyError):
            async with scope(commit=True):
                await write(Session, "one")
                log.watch("scope")
                with pytest.raises(LookupError):
                    async with scope(propagation="join"):
                        log.watch("block")
                        raise LookupError
                with pytest.raises(RollbackOnlyError):
                    await Session.commit()
                assert log == [], "a commit that was refused has not failed: nothing was tried"
        assert log == ["scope rolled back", "block rolled back"]


class TestLaw23AFailedCommit:
    """A commit that fails is a rollback; work that is lost never fires after_commit."""

    async def test_by_a_deferred_constraint_at_the_exit(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        with pytest.raises(IntegrityError):
            async with scope(commit=True):
                await break_the_commit(Session)
                log.watch()
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    @pytest.mark.parametrize("how", ["Session.commit", "scope.commit", "begin", "begin by hand"])
    async def test_by_a_deferred_constraint_in_the_body(
        self, how: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True) as opened:
            if how == "begin":
                with pytest.raises(IntegrityError):
                    async with Session.begin():
                        await break_the_commit(Session)
                        log.watch()
            elif how == "begin by hand":
                transaction = await Session.begin()
                await break_the_commit(Session)
                log.watch()
                with pytest.raises(IntegrityError):
                    await transaction.commit()
            else:
                await break_the_commit(Session)
                log.watch()
                with pytest.raises(IntegrityError):
                    await (Session if how == "Session.commit" else opened).commit()
            assert log == ["rolled back"]
            await write(Session, "next")
            log.watch("next")
        assert log == ["rolled back", "next committed"]
        assert await stored(engine) == {"next"}

    @pytest.mark.parametrize("how", ["exit", "Session.commit", "begin"])
    async def test_a_commit_that_the_server_would_turn_into_a_rollback(
        self, how: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async def spoil() -> None:
            await write(Session, "lost")
            log.watch()
            with pytest.raises(DBAPIError):
                await Session.execute(text("SELECT 1 / 0"))

        with pytest.raises(RollbackOnlyError):
            async with scope(commit=True):
                if how == "begin":
                    async with Session.begin():
                        await spoil()
                else:
                    await spoil()
                if how == "Session.commit":
                    await Session.commit()
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    @pytest.mark.parametrize("how", ["exit", "Session.commit", "begin", "begin_nested"])
    async def test_a_flush_that_failed_and_was_swallowed(
        self, how: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async def spoil() -> None:
            log.watch()
            await Session.execute(insert(Entry).values(id=-1, text="lost"))
            Session.add(Entry(id=-1, text="the same id"))
            with pytest.raises(IntegrityError):
                await Session.flush()

        with pytest.raises(PendingRollbackError):
            async with scope(commit=True):
                if how == "begin":
                    async with Session.begin():
                        await spoil()
                elif how == "begin_nested":
                    async with Session.begin_nested():
                        await spoil()
                else:
                    await spoil()
                if how == "Session.commit":
                    await Session.commit()
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    async def test_of_the_second_of_two_sessions(
        self, Session: Sessions, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        with pytest.raises(IntegrityError) as raised:
            async with scope(commit=True):
                await write(Session, "committed before")
                await break_the_commit(Other)
                log.watch()
        assert "Already committed" in raised.value.__notes__[0]
        assert log == ["rolled back"]
        assert await stored(engine) == {"committed before"}

    async def test_two_databases_of_which_one_was_committed_by_hand(
        self, Session: Sessions, sqlite_engine: AsyncEngine, engine: AsyncEngine, log: Log
    ) -> None:
        Lite = await scoped_session(sqlite_engine)
        async with scope():
            await write(Session, "by hand")
            await write(Lite, "lost")
            log.watch()
            await Session.commit()
            assert log == []
        assert log == ["rolled back"], "not all of the work was committed"
        async with scope(commit=True):
            await write(Session, "by hand too")
            await write(Lite, "by the exit")
            log.watch()
            await Session.commit()
        assert log == ["rolled back", "committed"]
        assert await stored(engine) == {"by hand", "by hand too"}
        assert await stored(sqlite_engine) == {"by the exit"}


class TestLaw23TheOutcomeIsUnknown:
    """Where the outcome of a commit is not known, neither runs."""

    @pytest.mark.parametrize("how", ["exit", "Session.commit", "begin"])
    async def test_the_connection_was_lost_within_the_commit(
        self, how: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        await die_at_commit(engine)
        with pytest.raises(DBAPIError) as raised:
            async with scope(commit=True):
                if how == "begin":
                    async with Session.begin():
                        await write(Session, "one")
                        log.watch()
                else:
                    await write(Session, "one")
                    log.watch()
                    if how == "Session.commit":
                        await Session.commit()
        assert any("outcome of the commit" in note for note in raised.value.__notes__)
        assert log == []

    async def test_it_says_nothing_about_what_comes_after(
        self, Session: Sessions, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        await die_at_commit(engine)
        async with scope():
            await write(Session, "one")
            log.watch("unknown")
            with pytest.raises(DBAPIError):
                await Session.commit()
            with pytest.raises(LookupError):
                async with Session.begin():
                    log.watch("next")
                    raise LookupError
            assert log == ["next rolled back"]
            async with engine.begin() as connection:
                await connection.execute(text("DROP TRIGGER dies ON entries"))
            await break_the_commit(Other)
            log.watch("other")
            with pytest.raises(IntegrityError):
                await current_scope().commit()
        assert log == ["next rolled back", "other rolled back"]
