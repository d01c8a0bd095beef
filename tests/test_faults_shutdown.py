"""Faults: a loop that ends while scopes are open, or are being left."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from scoped_async import AsyncScopedSession, ScopedResource, scope
from watch import (
    Gate,
    Proxy,
    out,
    shut_gate,
)


class TestTheLoopEnds:
    """``asyncio.run`` cancels what is left, helpers too: connections are terminated rather than left out."""

    def run(self, postgres_url: str, unit: Callable[[Proxy, Gate], Awaitable[None]]) -> None:
        async def main() -> None:
            gate = await stack.enter_async_context(shut_gate(postgres_url))
            await unit(AsyncScopedSession(async_sessionmaker(engine)), gate)

        async def end() -> None:
            """What ``asyncio.run`` does at its end; then the engine is disposed of, to leave nothing open."""
            left = asyncio.all_tasks() - {asyncio.current_task()}
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await asyncio.get_running_loop().shutdown_asyncgens()
            assert out(engine) == 0
            await stack.aclose()  # the gate stays shut till then
            await engine.dispose()

        stack = AsyncExitStack()
        engine = create_async_engine(postgres_url, pool_size=1, max_overflow=0)
        complaints: list[dict[str, Any]] = []
        with asyncio.Runner() as runner:
            runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
            runner.run(main())
            runner.run(end())
        gc.collect()
        assert complaints == []

    def test_with_a_scope_open(self, postgres_url: str) -> None:
        async def worker(Session: Proxy) -> None:
            async with scope(commit=True):
                await Session.scalar(select(1))
                ready.set()
                await asyncio.Event().wait()

        async def unit(Session: Proxy, gate: Gate) -> None:
            tasks.append(asyncio.create_task(worker(Session)))
            await ready.wait()

        ready, tasks = asyncio.Event(), list[asyncio.Task[None]]()
        self.run(postgres_url, unit)
        assert tasks[0].cancelled()

    def test_with_a_statement_in_flight(self, postgres_url: str) -> None:
        async def worker(Session: Proxy, gate: Gate) -> None:
            async with scope(commit=True):
                await Session.scalar(gate.passing())

        async def unit(Session: Proxy, gate: Gate) -> None:
            tasks.append(asyncio.create_task(worker(Session, gate)))
            await gate.waiting()

        tasks: list[asyncio.Task[None]] = []
        self.run(postgres_url, unit)
        assert tasks[0].cancelled()

    def test_with_a_generator_open(self, postgres_url: str) -> None:
        async def generate(Session: Proxy) -> AsyncGenerator[int | None, None]:
            async with scope(commit=True):
                yield await Session.scalar(select(1))

        async def unit(Session: Proxy, gate: Gate) -> None:
            generators.append(generate(Session))
            assert await anext(generators[0]) == 1

        generators: list[AsyncGenerator[int | None, None]] = []
        self.run(postgres_url, unit)

    def test_with_a_nested_block_being_left(self, postgres_url: str) -> None:
        """At a callback of the block, that is, which runs in the helper."""

        async def wait_for_ever() -> None:
            ready.set()
            await asyncio.Event().wait()

        async def worker(Session: Proxy) -> None:
            async with scope(commit=True):
                await Session.scalar(select(1))
                async with scope(propagation="nested") as inner:
                    inner.after_rollback(wait_for_ever)
                    inner.rollback_only = True

        async def unit(Session: Proxy, gate: Gate) -> None:
            tasks.append(asyncio.create_task(worker(Session)))
            await ready.wait()

        ready, tasks = asyncio.Event(), list[asyncio.Task[None]]()
        self.run(postgres_url, unit)
        assert tasks[0].cancelled()

    def test_with_a_scope_that_is_left_past_its_time(self, postgres_url: str) -> None:
        """By a hook that goes on when it is cancelled for that; the second cancellation is the loop's."""

        async def go_on(_: object) -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                late.set()
                await asyncio.Event().wait()

        async def worker(Session: Proxy) -> None:
            async with scope(close_timeout=0.01):
                await Session.scalar(select(1))
                ScopedResource(object, rollback=go_on)()

        async def unit(Session: Proxy, gate: Gate) -> None:
            tasks.append(asyncio.create_task(worker(Session)))
            await late.wait()

        late, tasks = asyncio.Event(), list[asyncio.Task[None]]()
        self.run(postgres_url, unit)
        assert tasks[0].cancelled()

    @pytest.mark.parametrize("steps", range(6))
    @pytest.mark.parametrize("end", ["exit", "Session.commit()", "Session.rollback()", "Session.begin()"])
    def test_with_work_that_ends(self, postgres_url: str, end: str, steps: int) -> None:
        """Cancelled with its helper at any step, before the helper's first one too."""

        async def work(Session: Proxy) -> None:
            await Session.scalar(select(1))
            ready.set()
            await go_on.wait()

        async def worker(Session: Proxy) -> None:
            async with scope(commit=True):
                if end == "Session.begin()":
                    async with Session.begin():
                        await work(Session)
                    return
                await work(Session)
                if end != "exit":
                    await (Session.commit if end == "Session.commit()" else Session.rollback)()

        async def unit(Session: Proxy, gate: Gate) -> None:
            tasks.append(asyncio.create_task(worker(Session)))
            await ready.wait()
            go_on.set()
            for _ in range(steps):
                await asyncio.sleep(0)
            if tasks[0].done():  # before it could be cancelled
                return
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.wait(tasks)
            assert tasks[0].cancelled()

        ready, go_on, tasks = asyncio.Event(), asyncio.Event(), list[asyncio.Task[None]]()
        self.run(postgres_url, unit)
