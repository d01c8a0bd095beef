"""Law 21: a commit runs to its end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scoped_async import (
    scope,
)
from watch import Gate, Item, Proxy, Watching, names, out

T = TypeVar("T")


async def anything(awaitable: Awaitable[T]) -> T:
    return await awaitable


COMMITS: dict[str, Callable[[Proxy], Awaitable[None]]] = {}


def commits(commit: Callable[[Proxy], Awaitable[None]]) -> Callable[[Proxy], Awaitable[None]]:
    COMMITS[commit.__name__] = commit
    return commit


@commits
async def of_the_exit(Session: Proxy) -> None:
    async with scope(commit=True):
        Session.add(Item(id=1, name="kept"))


@commits
async def of_the_session(Session: Proxy) -> None:
    async with scope():
        Session.add(Item(id=1, name="kept"))
        await Session.commit()
        await asyncio.sleep(0)
        pytest.fail("the cancellation is raised before")


@commits
async def of_the_scope(Session: Proxy) -> None:
    async with scope() as current:
        Session.add(Item(id=1, name="kept"))
        await current.commit()
        await asyncio.sleep(0)
        pytest.fail("the cancellation is raised before")


@commits
async def of_begin(Session: Proxy) -> None:
    async with scope():
        async with Session.begin():
            Session.add(Item(id=1, name="kept"))
        await asyncio.sleep(0)
        pytest.fail("the cancellation is raised before")


@pytest.mark.parametrize("commit", COMMITS)
class TestLaw21ACommitRunsToItsEnd(Watching):
    """A commit that has started runs to its end; a cancellation meanwhile is raised afterwards."""

    @pytest.mark.parametrize("cancels", [1, 3])
    async def test_cancelled_by_its_task(
        self, Session: Proxy, engine: AsyncEngine, gate: Gate, commit: str, cancels: int
    ) -> None:
        await gate.at_commit(Session)
        task = asyncio.create_task(anything(COMMITS[commit](Session)))
        await gate.waiting()
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        assert not task.done()
        await gate.open()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert out(engine) == 0
        assert await names(Session) == ["kept"]

    async def test_cancelled_by_a_scope_of_anyio(
        self, Session: Proxy, engine: AsyncEngine, gate: Gate, commit: str
    ) -> None:
        async def cancel() -> None:
            await gate.waiting()
            deadline.cancel()
            await gate.open()

        await gate.at_commit(Session)
        deadline = anyio.CancelScope()
        cancelling = asyncio.create_task(cancel())
        with deadline:
            await COMMITS[commit](Session)
            await anyio.lowlevel.checkpoint()
            pytest.fail("anyio raises it at the next await")
        await cancelling
        assert deadline.cancelled_caught
        assert out(engine) == 0
        assert await names(Session) == ["kept"]

    async def test_a_failure_of_the_commit_is_noted_on_the_cancellation(
        self, Session: Proxy, gate: Gate, commit: str
    ) -> None:
        await gate.at_commit(Session)
        task = asyncio.create_task(anything(COMMITS[commit](Session)))
        await gate.waiting()
        task.cancel()
        await gate.kill()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        assert "terminating connection" in "".join(cancelled.value.__notes__)
        assert await names(Session) == []
