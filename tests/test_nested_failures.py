"""Law 26: what a nested block cannot undo, and what fails at its end."""

import asyncio

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import Entry, Sessions, stored, write
from scoped_async import (
    ConcurrentUseError,
    RollbackOnlyError,
    ScopeError,
    current_scope,
    scope,
)


class TestLaw26Failures:
    """What cannot be undone to the savepoint marks the scope; a commit of it raises RollbackOnlyError."""

    async def test_a_failed_join_is_undone_with_the_nested_block_around_it(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True) as outer:
            await write(Session, "outer")
            with pytest.raises(RollbackOnlyError, match="the join's") as raised:
                async with scope(propagation="nested"):
                    await write(Session, "nested")
                    with pytest.raises(LookupError):
                        async with scope(propagation="join"):
                            await write(Session, "joined")
                            raise LookupError("the join's")
                    assert current_scope().rollback_only
            assert isinstance(raised.value.__cause__, LookupError)
            assert not outer.rollback_only
        assert await stored(engine) == {"outer"}

    async def test_a_join_that_outlives_the_nested_block_marks_what_is_around_it(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        joined, ended = asyncio.Event(), asyncio.Event()

        @scope(propagation="join")
        async def late() -> None:
            joined.set()
            await ended.wait()
            raise LookupError("the late one's")

        async with scope(commit=True):
            await write(Session, "outer")
            with pytest.raises(RollbackOnlyError):
                async with scope(propagation="nested"):
                    await write(Session, "1 lost")
                    async with scope(propagation="nested"):
                        task = asyncio.create_task(late())
                        await joined.wait()
                    ended.set()
                    await asyncio.wait([task])
        assert await stored(engine) == {"outer"}

    async def test_a_database_error_that_was_swallowed_inside_fails_the_block_alone(
        self, Session: Sessions, Other: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            await write(Session, "outer")
            await write(Other, "other")
            with pytest.raises(RollbackOnlyError, match="swallowed"):
                async with scope(propagation="nested"):
                    await write(Other, "other's, lost")
                    await write(Session, "lost")
                    with pytest.raises(DBAPIError):
                        await Session.execute(text("SELECT 1 / 0"))
            await write(Session, "after")
        assert await stored(engine) == {"outer", "other", "after"}

    async def test_a_database_error_of_the_block_is_undone_to_the_savepoint(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            Session.add(Entry(id=-1, text="outer"))
            with pytest.raises(IntegrityError):
                async with scope(propagation="nested"):
                    await Session.execute(insert(Entry).values(id=-1, text="twice"))
            await write(Session, "after")
        assert await stored(engine) == {"outer", "after"}

    @pytest.mark.parametrize("ending", ["close", "aclose", "reset", "invalidate", "remove"])
    async def test_a_block_that_fails_when_its_savepoint_is_gone_marks_the_scope(
        self, ending: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        with pytest.raises(RollbackOnlyError) as raised:
            async with scope(commit=True):
                await write(Session, "outer")
                with pytest.raises(LookupError):
                    async with scope(propagation="nested"):
                        await getattr(Session, ending)()
                        await write(Session, "in the block, without a savepoint")
                        raise LookupError
        assert isinstance(raised.value.__cause__, LookupError)
        assert await stored(engine) == set()

    @pytest.mark.parametrize("ending", ["close", "aclose", "reset", "invalidate", "remove"])
    async def test_one_that_ends_well_has_nothing_to_release(
        self, ending: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            await write(Session, "lost by the close")
            async with scope(propagation="nested"):
                await getattr(Session, ending)()
                await write(Session, "after it")
        assert await stored(engine) == {"after it"}

    async def test_a_savepoint_around_the_block_that_ends_first_takes_it_along(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        with pytest.raises(RollbackOnlyError, match="savepoint of a nested block is gone"):
            async with scope(commit=True):
                around = await Session.begin_nested()
                with pytest.raises(ScopeError, match="gone"):
                    async with scope(propagation="nested"):
                        await write(Session, "lost with the savepoint around")
                        await around.rollback()
        assert await stored(engine) == set()

    @pytest.mark.parametrize(("how", "fails"), [("nested", True), ("nested", False), ("begin_nested", True)])
    async def test_an_end_that_another_tasks_operation_stands_against_marks_the_scope(
        self, fails: bool, how: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        with pytest.raises(RollbackOnlyError):
            async with scope(commit=True):
                await write(Session, "outer")
                with pytest.raises(LookupError if fails else ConcurrentUseError):
                    async with scope(propagation="nested") if how == "nested" else Session.begin_nested():
                        task = asyncio.create_task(Session.execute(text("SELECT pg_sleep(0.1)")))
                        await asyncio.sleep(0)
                        if fails:
                            raise LookupError
                await task
        assert await stored(engine) == set()

    async def test_a_transaction_that_is_spoiled_takes_no_savepoint(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        with pytest.raises(RollbackOnlyError, match="swallowed"):
            async with scope(commit=True):
                await write(Session, "outer")
                with pytest.raises(DBAPIError):
                    await Session.execute(text("SELECT 1 / 0"))
                with pytest.raises(DBAPIError, match="aborted"):
                    async with scope(propagation="nested"):
                        pytest.fail("entered")
                assert not Session.in_nested_transaction()
        assert await stored(engine) == set()

    async def test_a_block_that_fails_after_the_end_of_its_scope(self, Session: Sessions) -> None:
        block = scope(propagation="nested")
        async with scope():
            await write(Session, "outer")
            await block.__aenter__()
        error = LookupError("the block's")
        await block.__aexit__(LookupError, error, None)
        assert not hasattr(error, "__notes__")

    def test_when_the_loop_shuts_down_while_it_ends_it_is_cancelled(self) -> None:
        async def main() -> "asyncio.Task[None]":
            waiting = asyncio.Event()

            async def wait_forever() -> None:
                waiting.set()
                await asyncio.Event().wait()

            async def unit() -> None:
                async with scope(), scope(propagation="nested") as nested:
                    nested.after_rollback(wait_forever)
                    nested.rollback_only = True

            task = asyncio.create_task(unit())
            await waiting.wait()
            return task

        assert asyncio.run(main()).cancelled()

    async def test_a_cancellation_while_it_is_undone_comes_after_that(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        fired: list[str] = []
        task = asyncio.current_task()
        assert task is not None

        async with scope(commit=True):
            await write(Session, "outer")
            with pytest.raises(asyncio.CancelledError) as raised:
                async with scope(propagation="nested") as nested:
                    await write(Session, "lost")
                    nested.after_commit(fired.append, "commit of lost work")
                    nested.after_rollback(fired.append, "rollback")
                    task.cancel()
                    raise LookupError
            assert isinstance(raised.value.__context__, LookupError)
            assert fired == ["rollback"]
            task.uncancel()
        assert await stored(engine) == {"outer"}
        assert fired == ["rollback"]

    async def test_a_cancelled_entry_leaves_no_commit_of_half_the_work(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with engine.connect() as locker:
            await locker.execute(text("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE"))
            waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")

            async def unit() -> None:
                async with scope(commit=True):
                    Session.add(Entry(text="pending"))
                    async with scope(propagation="nested"):
                        pytest.fail("entered")

            task = asyncio.create_task(unit())
            async with asyncio.timeout(10):
                while not await locker.scalar(waiting):
                    await locker.execute(text("SELECT pg_stat_clear_snapshot()"))
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            await locker.rollback()
        assert await stored(engine) == set()
