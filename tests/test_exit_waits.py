"""Law 17: the exit waits for the operations of others."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from scoped_async import (
    ScopeClosedError,
    current_scope,
    scope,
)
from watch import Gate, Item, Proxy, Watching, answer, names, out


class TestLaw17TheExitWaits(Watching):
    """Operations of other tasks still in flight are waited for; new ones are refused."""

    @pytest.mark.parametrize("commit", [False, True])
    async def test_an_operation_in_flight_comes_to_its_end(
        self, Session: Proxy, engine: AsyncEngine, gate: Gate, commit: bool
    ) -> None:
        async def child() -> tuple[int | None, str]:
            first = await Session.scalar(gate.passing())
            with pytest.raises(ScopeClosedError) as refused:
                await Session.scalar(answer(2))
            return first, str(refused.value)

        async def leave() -> None:
            async with scope(commit=commit, name="parent"):
                tasks.append(asyncio.create_task(child()))
                await gate.waiting()
                waiting.set()
            assert out(engine) == 0

        waiting = asyncio.Event()
        tasks: list[asyncio.Task[tuple[int | None, str]]] = []
        leaving = asyncio.create_task(leave())
        await waiting.wait()
        await asyncio.sleep(0)
        assert not leaving.done()
        await gate.open()
        await leaving
        first, message = await tasks[0]
        assert first == 7
        assert "the scope parent is clos" in message
        assert "Open a scope of your own" in message

    async def test_new_operations_are_refused_while_the_exit_waits(self, Session: Proxy, gate: Gate) -> None:
        async def late() -> None:
            await left.wait()
            await asyncio.sleep(0)
            with pytest.raises(ScopeClosedError, match="is closing"):
                await Session.scalar(answer(2))
            with pytest.raises(ScopeClosedError, match="is closing"):
                Session.add(Item(id=1, name="a"))
            with pytest.raises(ScopeClosedError, match="is closing"):
                await current_scope().commit()
            await gate.open()

        left = asyncio.Event()
        async with scope():
            first = asyncio.create_task(Session.scalar(gate.passing()))
            refused = asyncio.create_task(late())
            await gate.waiting()
            left.set()
        assert await first == 7
        await refused

    async def test_new_operations_of_what_a_joined_block_started_are_refused_too(
        self, Session: Proxy
    ) -> None:
        """Its frame shares what the scope holds, also once the block has ended."""

        async def late() -> None:
            await leaving.wait()
            with pytest.raises(ScopeClosedError):
                await Session.scalar(answer(2))

        leaving = asyncio.Event()
        async with scope(commit=True) as current:
            async with scope(propagation="join"):
                task = asyncio.create_task(late())
            assert await Session.scalar(answer(1)) == 1
            current.after_commit(leaving.set)
            current.after_commit(lambda: task)
        assert task.done()

    async def test_a_commit_of_another_task_in_flight_is_waited_for(self, Session: Proxy, gate: Gate) -> None:
        await gate.at_commit(Session)

        async def opener() -> None:
            await gate.waiting()
            await gate.open()

        async with scope():
            Session.add(Item(id=1, name="a"))
            committing = asyncio.create_task(Session.commit())
            await gate.waiting()
            opening = asyncio.create_task(opener())
        await opening
        assert committing.done()
        assert await names(Session) == ["a"]
