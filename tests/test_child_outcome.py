"""Law 19: a child scope's own outcome decides its own commit, in every form of waiting for it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import Sessions, stored, write
from scoped_async import create_task_group, scope

Child = Callable[[], Awaitable[None]]


# Each waits for a child in a way of its own, and goes on when the child has failed.


async def awaited_task(child: Child) -> None:
    with suppress(LookupError):
        await asyncio.create_task(child())  # type: ignore[arg-type]


async def gathered(child: Child) -> None:
    with suppress(LookupError):
        await asyncio.gather(child())


async def gathered_with_its_exception(child: Child) -> None:
    await asyncio.gather(child(), return_exceptions=True)


async def waited(child: Child) -> None:
    done, _ = await asyncio.wait([asyncio.ensure_future(child())])
    for task in done:
        task.exception()


async def asyncio_task_group(child: Child) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())  # type: ignore[arg-type]
    except* LookupError:
        pass


async def anyio_task_group(child: Child) -> None:
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(child)  # type: ignore[arg-type]
    except* LookupError:
        pass


async def waited_for(child: Child) -> None:
    with suppress(LookupError):
        await asyncio.wait_for(child(), 10)


async def as_completed(child: Child) -> None:
    for each in asyncio.as_completed([child()]):
        with suppress(LookupError):
            await each


async def our_task_group(child: Child) -> None:
    try:
        async with create_task_group() as group:
            group.start_soon(child)  # type: ignore[arg-type]
    except* LookupError:
        pass


WAYS = pytest.mark.parametrize(
    "wait",
    [
        awaited_task, gathered, gathered_with_its_exception, waited, asyncio_task_group, anyio_task_group,
        waited_for, as_completed, our_task_group,
    ],
    ids=lambda wait: wait.__name__,
)  # fmt: skip
Way = Callable[[Child], Awaitable[None]]


@WAYS
class TestLaw19AChildsOutcomeIsItsOwn:
    """A child scope commits or rolls back by its own outcome, however it is waited for."""

    async def test_the_child_fails_and_the_parent_swallows_that(
        self, wait: Way, Session: Sessions, engine: AsyncEngine
    ) -> None:
        @scope(commit=True)
        async def child() -> None:
            await write(Session, "child")
            raise LookupError

        async with scope(commit=True):
            await write(Session, "parent")
            await wait(child)
        assert await stored(engine) == {"parent"}

    async def test_the_child_succeeds_and_has_committed_when_it_has_ended(
        self, wait: Way, Session: Sessions, engine: AsyncEngine
    ) -> None:
        @scope(commit=True)
        async def child() -> None:
            await write(Session, "child")

        async with scope(commit=True):
            await write(Session, "parent")
            await wait(child)
            assert await stored(engine) == {"child"}
        assert await stored(engine) == {"parent", "child"}

    async def test_the_parent_fails_afterwards(
        self, wait: Way, Session: Sessions, engine: AsyncEngine
    ) -> None:
        @scope(commit=True)
        async def child() -> None:
            await write(Session, "child")

        with pytest.raises(ValueError, match="the parent's"):
            async with scope(commit=True):
                await write(Session, "parent")
                await wait(child)
                raise ValueError("the parent's")
        assert await stored(engine) == {"child"}

    async def test_the_commit_of_the_child_has_happened_when_its_task_has_ended(
        self, wait: Way, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async def child() -> None:
            async with scope(commit=True):
                await write(Session, "child")
            assert await stored(engine) == {"child"}

        async with scope():
            await wait(child)
