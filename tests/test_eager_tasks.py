"""Law 10 under a factory that begins each task at once, on the stack of whoever makes it (Python 3.12)."""

import asyncio
import sys
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import asyncpg_of, scoped_session, write
from scoped_async import ScopedResource, scope

if sys.version_info >= (3, 12):

    @pytest.fixture(autouse=True)
    async def begin_tasks_at_once() -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)
        yield
        loop.set_task_factory(None)

    class TestTheExitUnderAnEagerTaskFactory:
        """What ends a scope begins with the next turn of the loop all the same."""

        async def test_that_waits_for_nothing(self) -> None:
            committed: list[object] = []
            thing = ScopedResource(object, commit=committed.append)
            async with scope(commit=True):
                used = thing()
            assert committed == [used]

        async def test_has_a_stack_of_its_own(self) -> None:
            """Near the recursion limit, it would fail half-way and leave connections behind."""
            depths: list[int] = []

            def note_depth(_: object) -> None:
                frame, depth = sys._getframe(), 0
                while frame.f_back is not None:
                    frame, depth = frame.f_back, depth + 1
                depths.append(depth)

            async def unit(depth: int) -> None:
                if depth:
                    await unit(depth - 1)
                else:
                    async with scope(commit=True):
                        thing()

            thing = ScopedResource(object, commit=note_depth)
            await unit(0)
            await unit(100)
            assert depths[0] == depths[1]

        async def test_has_no_exception_but_its_own(self) -> None:
            """Else what a hook raises gets the body's as its context, and the body's may lose its own."""

            def note_exception(_: object) -> None:
                seen.append(sys.exception())

            seen: list[BaseException | None] = []
            thing = ScopedResource(object, rollback=note_exception)
            with pytest.raises(ValueError, match="body"):
                async with scope():
                    thing()
                    raise ValueError("body")
            assert seen == [None]

        async def test_has_heard_what_asyncpg_was_told_at_last(self, engine: AsyncEngine) -> None:
            """Of which asyncpg tells with the next turn of the loop."""
            Session = await scoped_session(engine)
            fates: list[str] = []
            async with scope(commit=True) as opened:
                opened.after_commit(fates.append, "committed")
                opened.after_rollback(fates.append, "rolled back")
                await write(Session, "lost")
                await (await asyncpg_of(Session)).execute("ROLLBACK")
            assert fates == ["rolled back"]
