"""Law 26: while a block is open, and savepoints of several tasks."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import Entry, Sessions, fail_after, stored, write
from scoped_async import (
    ConcurrentUseError,
    ScopeError,
    create_task_group,
    current_scope,
    scope,
)


class TestLaw26WhileABlockIsOpen:
    """commit(), rollback() and begin() raise ScopeError while a block is open, in whichever task."""

    @pytest.mark.parametrize("word", ["join", "nested", "mandatory"])
    @pytest.mark.parametrize("where", ["in the block", "in another task"])
    async def test_they_are_refused_and_nothing_is_lost(
        self, where: str, word: Any, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async def end_it_all() -> None:
            for end in (
                Session.commit, Session.rollback, Session.begin().__aenter__, current_scope().commit,
                current_scope().rollback, tx.commit, tx.rollback,
            ):  # fmt: skip
                with pytest.raises(ScopeError, match="joined or nested block") as raised:
                    await end()
                assert "scope(commit=True)" in str(raised.value)
                assert "rollback_only" in str(raised.value)

        async with scope():
            tx = await Session.begin()
            await write(Session, "outer")
            open_, let_go = asyncio.Event(), asyncio.Event()

            async def hold() -> None:
                async with scope(propagation=word):
                    open_.set()
                    await let_go.wait()

            if where == "in the block":
                async with scope(propagation=word):
                    await end_it_all()
            else:
                task = asyncio.create_task(hold())
                await open_.wait()
                await end_it_all()
                let_go.set()
                await task
            await tx.commit()
        assert await stored(engine) == {"outer"}

    async def test_a_scope_of_its_own_commits_inside(self, Session: Sessions, engine: AsyncEngine) -> None:
        async with scope(), scope(propagation="join"), scope(commit=True):
            await write(Session, "own")
        assert await stored(engine) == {"own"}

    async def test_a_scope_that_is_left_meanwhile_does_not_commit(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        open_, let_go = asyncio.Event(), asyncio.Event()

        async def hold() -> None:
            async with scope(propagation="nested"):
                open_.set()
                await let_go.wait()

        with pytest.raises(ScopeError, match="still open in another task"):
            async with scope(commit=True):
                await write(Session, "outer")
                task = asyncio.create_task(hold())
                await open_.wait()
        let_go.set()
        with pytest.raises(ScopeError, match="is closed"):
            await task
        assert await stored(engine) == set()


class TestLaw26SavepointsAreAStack:
    """A savepoint within a block that is not the innermost raises ConcurrentUseError at its entry."""

    @pytest.mark.parametrize("word", ["nested", "begin_nested"])
    async def test_a_sibling_that_nests_while_another_has_a_savepoint_open(
        self, word: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        open_, let_go = asyncio.Event(), asyncio.Event()

        def nest() -> Any:
            return scope(propagation="nested") if word == "nested" else Session.begin_nested()

        async def hold() -> None:
            async with nest():
                await write(Session, "holder")
                open_.set()
                await let_go.wait()

        async with scope(commit=True):
            await write(Session, "outer")
            task = asyncio.create_task(hold())
            await open_.wait()
            for refused in (scope(propagation="nested"), Session.begin_nested()):
                with pytest.raises(ConcurrentUseError, match="another task"):
                    await refused.__aenter__()
            let_go.set()
            await task
            async with nest():
                await write(Session, "after it")
        assert await stored(engine) == {"outer", "holder", "after it"}

    @pytest.mark.parametrize("touched", [True, False])
    async def test_siblings_that_nest_at_the_same_moment(
        self, touched: bool, Session: Sessions, Other: Sessions, engine: AsyncEngine
    ) -> None:
        entered = 0

        async def nest(through: Callable[[], Any]) -> None:
            nonlocal entered
            async with through():
                entered += 1
                await asyncio.sleep(0)
                assert entered == 1
                await write(Session, "one")

        ways = [
            lambda: scope(propagation="nested"), Session.begin_nested, lambda: scope(propagation="nested"),
            Other.begin_nested,
        ]  # fmt: skip
        for first in range(4):
            entered = 0
            async with scope(commit=True):
                if touched:  # so that every entry has something to flush, and waits for it
                    Session.add(Entry(text="outer"))
                    Other.add(Entry(text="other"))
                tasks = [asyncio.create_task(nest(way)) for way in ways[first:] + ways[:first]]
                results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(result) for result in results if result is not None] == [ConcurrentUseError] * 3

    async def test_a_child_that_its_parent_awaits_may_nest_further(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        @scope(propagation="nested")
        async def child(name: str) -> None:
            await write(Session, name)

        async with scope(commit=True):
            await write(Session, "outer")
            async with scope(propagation="nested"):
                await asyncio.wait_for(child("by wait_for"), 10)
                await asyncio.create_task(child("by a task"))
        assert await stored(engine) == {"outer", "by wait_for", "by a task"}

    async def test_begin_nested_leaves_no_mark_so_another_task_is_a_sibling(self, Session: Sessions) -> None:
        @scope(propagation="nested")
        async def child() -> None:
            pytest.fail("entered")

        async with scope(), Session.begin_nested():
            with pytest.raises(ConcurrentUseError):
                await asyncio.create_task(child())

    async def test_children_of_a_task_group_have_savepoints_of_their_own(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async def child(name: str) -> None:
            await write(Session, name)
            await fail_after(write(Session, "lost"))

        async with scope(propagation="nested"), create_task_group(commit=True, limit=4) as tg:
            for name in "abcdefgh":
                tg.start_soon(child, name)
        assert await stored(engine) == set("abcdefgh")
