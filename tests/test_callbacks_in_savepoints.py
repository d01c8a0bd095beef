"""Law 23: callbacks that are registered inside a savepoint."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import Log, Sessions, stored, write
from scoped_async import (
    RollbackOnlyError,
    scope,
)


class TestLaw23InSavepoints:
    """Registered inside a savepoint they follow its fate."""

    @pytest.mark.parametrize("how", ["nested", "begin_nested", "begin_nested by hand"])
    async def test_released_they_move_to_the_outer_scope(self, how: str, Session: Sessions, log: Log) -> None:
        for commit in (True, False):
            async with scope(commit=commit):
                await write(Session, "one")
                log.watch("outer")
                if how == "begin_nested by hand":
                    savepoint = await Session.begin_nested()
                    log.watch("inner")
                    await savepoint.commit()
                else:
                    async with scope(propagation="nested") if how == "nested" else Session.begin_nested():
                        log.watch("inner")
                assert log == []
                log.watch("after")
            fate = "committed" if commit else "rolled back"
            assert log == [f"outer {fate}", f"inner {fate}", f"after {fate}"]
            log.clear()

    @pytest.mark.parametrize("how", ["nested", "begin_nested", "begin_nested by hand"])
    async def test_rolled_back_they_are_dropped_and_run(self, how: str, Session: Sessions, log: Log) -> None:
        async with scope(commit=True):
            await write(Session, "one")
            log.watch("outer")
            if how == "begin_nested by hand":
                savepoint = await Session.begin_nested()
                log.watch("inner")
                await savepoint.rollback()
            else:
                with pytest.raises(LookupError):
                    async with scope(propagation="nested") if how == "nested" else Session.begin_nested():
                        log.watch("inner")
                        raise LookupError
            assert log == ["inner rolled back"]
        assert log == ["inner rolled back", "outer committed"]

    async def test_of_an_inner_one_released_into_one_that_is_rolled_back(
        self, Session: Sessions, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "one")
            log.watch("0")
            with pytest.raises(LookupError):
                async with scope(propagation="nested"):
                    log.watch("1")
                    async with Session.begin_nested():
                        log.watch("2")
                        async with scope(propagation="nested"):
                            log.watch("3")
                    assert log == []
                    raise LookupError
            assert log == ["1 rolled back", "2 rolled back", "3 rolled back"]
        assert log[3:] == ["0 committed"]

    async def test_in_a_joined_block_they_belong_to_the_scope(self, Session: Sessions, log: Log) -> None:
        async with scope(commit=True):
            await write(Session, "one")
            async with scope(propagation="join"):
                log.watch("joined")
            assert log == []
        assert log == ["joined committed"]

    async def test_a_rollback_of_the_whole_in_a_savepoint_settles_them_all(
        self, Session: Sessions, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "lost")
            log.watch("outer")
            async with Session.begin_nested():
                log.watch("inner")
                await Session.rollback()
                assert log == ["outer rolled back", "inner rolled back"]
                log.watch("after")
            await write(Session, "kept")
            assert len(log) == 2
        assert log[2:] == ["after committed"]

    @pytest.mark.parametrize("how", ["nested", "begin_nested"])
    async def test_of_a_rolled_back_one_they_run_around_it(
        self, how: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async def write_in_another_task() -> None:
            await asyncio.wait_for(write(Session, "by the callback"), 10)
            async with scope(propagation="nested"):
                await write(Session, "by its nested block")

        async with scope(commit=True) as opened:
            await write(Session, "outer")
            with pytest.raises(LookupError):
                async with scope(propagation="nested") if how == "nested" else Session.begin_nested():
                    opened.after_rollback(write_in_another_task)
                    raise LookupError
        assert await stored(engine) == {"outer", "by the callback", "by its nested block"}

    async def test_what_fails_in_such_a_callback_marks_the_scope(self, Session: Sessions) -> None:
        async def fail_joined() -> None:
            with pytest.raises(LookupError):
                async with scope(propagation="join"):
                    raise LookupError("the callback's")

        with pytest.raises(RollbackOnlyError, match="the callback's"):
            async with scope(commit=True) as opened:
                await write(Session, "outer")
                async with scope(propagation="nested"):
                    opened.after_rollback(fail_joined)
                    opened.rollback_only = True
