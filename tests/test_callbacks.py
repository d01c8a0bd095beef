"""Law 23: callbacks run when the fate of the work is known."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from entries import Log, Sessions, stored, write
from scoped_async import (
    Scope,
    ScopeClosedError,
    current_scope,
    scope,
)


class TestLaw23HowTheyRun:
    """Sync or async, once, in order, in the scope, when its connections are free."""

    async def test_in_the_order_of_registration_sync_and_async_with_their_arguments(
        self, Session: Sessions, log: Log
    ) -> None:
        async def later(*parts: str) -> None:
            await asyncio.sleep(0)
            log.append("-".join(parts))

        async with scope(commit=True) as opened:
            await write(Session, "one")
            opened.after_commit(log.append, "first")
            opened.after_commit(later, "sec", "ond")
            opened.after_commit(log.append, "third")
            assert log == []
        assert log == ["first", "sec-ond", "third"]

    async def test_each_runs_once(self, Session: Sessions, log: Log) -> None:
        async with scope(commit=True):
            await write(Session, "one")
            log.watch()
            await Session.commit()
            assert log == ["committed"]
            await write(Session, "two")
            await Session.commit()
        assert log == ["committed"]

    async def test_whichever_fires_drops_the_other(self, Session: Sessions, log: Log) -> None:
        async with scope():
            await write(Session, "one")
            log.watch("first")
            await Session.commit()
            await write(Session, "two")
            log.watch("second")
        assert log == ["first committed", "second rolled back"]

    @pytest.mark.parametrize("fate", ["exit", "commit", "scope.commit", "begin", "rollback"])
    async def test_they_run_in_the_scope_with_its_connections_free(
        self, fate: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        seen: list[tuple[Scope, int, bool]] = []

        async def look() -> None:
            assert isinstance(engine.pool, QueuePool)
            seen.append((current_scope(), engine.pool.checkedout(), Session.in_transaction()))

        async with scope(commit=fate == "exit") as opened:
            if fate == "begin":
                async with Session.begin():
                    await write(Session, "one")
                    opened.after_commit(look)
            else:
                await write(Session, "one")
                opened.after_commit(look)
                opened.after_rollback(look)
            if fate == "commit":
                await Session.commit()
            elif fate == "scope.commit":
                await opened.commit()
            elif fate == "rollback":
                await Session.rollback()
        assert seen == [(opened, 0, False)]

    async def test_one_may_open_another_transaction(self, Session: Sessions, engine: AsyncEngine) -> None:
        async def audit(name: str) -> None:
            await write(Session, name)
            await Session.commit()

        async def in_a_scope_of_its_own(name: str) -> None:
            async with scope(commit=True):
                await write(Session, name)

        async with scope(commit=True) as opened:
            await write(Session, "one")
            opened.after_commit(audit, "audited")
            opened.after_commit(in_a_scope_of_its_own, "own")
        assert await stored(engine) == {"one", "audited", "own"}

    async def test_what_one_leaves_uncommitted_at_the_exit_is_rolled_back(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async def leave() -> None:
            await write(Session, "uncommitted")
            log.watch("its own")

        async with scope(commit=True) as opened:
            await write(Session, "one")
            opened.after_commit(leave)
        assert await stored(engine) == {"one"}
        assert log == ["its own rolled back"]

    async def test_those_that_one_registers_at_the_exit_run_in_the_same_round(
        self, Session: Sessions, log: Log
    ) -> None:
        async with scope(commit=True) as opened:
            await write(Session, "one")
            opened.after_commit(log.watch, "registered")
        assert log == ["registered committed"]

    async def test_an_exception_in_one_stops_no_other_and_is_raised_afterwards(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        def fail(name: str) -> None:
            raise LookupError(name)

        with pytest.raises(LookupError, match="at the exit"):
            async with scope(commit=True) as opened:
                await write(Session, "one")
                opened.after_commit(fail, "in the body")
                opened.after_commit(log.append, "after it")
                with pytest.raises(LookupError, match="in the body"):
                    await Session.commit()
                assert log == ["after it"]
                opened.after_commit(fail, "at the exit")
                opened.after_commit(log.append, "after that")
        assert log == ["after it", "after that"]
        assert await stored(engine) == {"one"}

    async def test_several_exceptions_are_one_group_and_notes_on_one_that_is_on_its_way(self) -> None:
        def fail(name: str) -> None:
            raise LookupError(name)

        with pytest.raises(ExceptionGroup) as raised:
            async with scope() as opened:
                opened.after_commit(fail, "one")
                opened.after_commit(fail, "other")
        assert [str(error) for error in raised.value.exceptions] == ["one", "other"]

        with pytest.raises(ValueError, match="the body's") as on_its_way:
            async with scope() as opened:
                opened.after_rollback(fail, "noted")
                raise ValueError("the body's")
        assert "noted" in on_its_way.value.__notes__[0]

    async def test_they_cannot_be_registered_with_a_dead_scope(self) -> None:
        async with scope() as opened:
            pass
        for register in (opened.after_commit, opened.after_rollback):
            with pytest.raises(ScopeClosedError):
                register(list)


class TestLaw23Committed:
    """after_commit: a commit left no session of the scope in a transaction, or a clean exit finds none."""

    async def test_by_the_exit(self, Session: Sessions, log: Log) -> None:
        async with scope(commit=True):
            await write(Session, "one")
            log.watch()
        assert log == ["committed"]

    async def test_by_the_proxy_and_by_the_scope(self, Session: Sessions, log: Log) -> None:
        async with scope() as opened:
            for commit in (Session.commit, opened.commit):
                await write(Session, "one")
                log.watch(commit.__qualname__)
                await commit()
                assert log.pop() == f"{commit.__qualname__} committed"
        assert log == []

    async def test_by_the_end_of_begin(self, Session: Sessions, log: Log) -> None:
        async with scope():
            async with Session.begin():
                await write(Session, "one")
                log.watch("begin")
            assert log == ["begin committed"]
            transaction = await Session.begin()
            log.watch("by hand")
            await transaction.commit()
            assert log == ["begin committed", "by hand committed"]

    async def test_the_end_of_a_begin_that_was_ended_by_hand_is_no_outcome(
        self, Session: Sessions, log: Log
    ) -> None:
        async with scope():
            with pytest.raises(LookupError):
                async with Session.begin() as transaction:
                    await write(Session, "one")
                    log.watch("first")
                    await transaction.commit()
                    log.watch("second")
                    raise LookupError
            assert log == ["first committed"]
        assert log == ["first committed", "second committed"]

    async def test_a_clean_exit_that_finds_no_transaction(self, Session: Sessions, log: Log) -> None:
        async with scope():
            log.watch("untouched")
        async with scope():
            await write(Session, "one")
            await Session.commit()
            log.watch("after the commit")
        assert log == ["untouched committed", "after the commit committed"]

    async def test_not_while_another_session_is_in_a_transaction(
        self, Session: Sessions, Other: Sessions, log: Log
    ) -> None:
        async with scope():
            await write(Session, "one")
            await write(Other, "other")
            log.watch()
            await Session.commit()
            assert log == []
            await Other.commit()
            assert log == ["committed"]

    async def test_a_commit_that_was_cancelled_meanwhile_has_happened(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async def unit() -> None:
            async with scope():
                await write(Session, "one")
                log.watch()
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await Session.commit()

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(unit())
        assert log == ["committed"]
        assert await stored(engine) == {"one"}
