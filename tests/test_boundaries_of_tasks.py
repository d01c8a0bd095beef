"""Law 3, every boundary once: threads, callbacks and generators, and the scope on their other side."""

import asyncio
import gc
import sys
import threading
from collections.abc import AsyncGenerator, Callable

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import QueuePool

from scoped_async import AsyncScopedSession, ForeignThreadError, NoScopeError, Scope, current_scope, scope

Proxy = AsyncScopedSession[AsyncSession]


@pytest.fixture
def Session(engine: AsyncEngine) -> Proxy:
    return AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))


async def here(Session: Proxy) -> tuple[Scope, AsyncSession, int]:
    """The scope that is current, its session, and the server's end of its connection."""
    return current_scope(), Session(), await Session.scalar(text("SELECT pg_backend_pid()"))


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


class TestThreads:
    """A worker thread knows the scope, may not touch the session, and finds both when it calls back."""

    async def test_to_thread(self, Session: Proxy) -> None:
        async with scope() as opened:
            session = Session()
            assert await asyncio.to_thread(current_scope) is opened
            assert await anyio.to_thread.run_sync(current_scope) is opened
            with pytest.raises(ForeignThreadError):
                await asyncio.to_thread(Session)
            with pytest.raises(ForeignThreadError):
                await anyio.to_thread.run_sync(Session)
            assert Session() is session

    async def test_from_thread(self, Session: Proxy) -> None:
        loop = asyncio.get_running_loop()
        async with scope():
            first = await here(Session)
            assert await anyio.to_thread.run_sync(anyio.from_thread.run, here, Session) == first
            assert await anyio.to_thread.run_sync(lambda: anyio.from_thread.run_sync(Session)) is first[1]
            call = asyncio.run_coroutine_threadsafe
            assert await asyncio.to_thread(lambda: call(here(Session), loop).result()) == first

    @pytest.mark.parametrize("executor", [False, True])
    async def test_a_bare_thread_and_an_executor(self, executor: bool, Session: Proxy) -> None:
        expected = ForeignThreadError if getattr(sys.flags, "thread_inherit_context", False) else NoScopeError

        def look() -> None:
            try:
                Session()
            except Exception as error:
                caught.append(type(error))

        caught: list[type[Exception]] = []
        async with scope():
            Session()
            if executor:
                await asyncio.get_running_loop().run_in_executor(None, look)
            else:
                thread = threading.Thread(target=look)
                thread.start()
                thread.join()
        assert caught == [expected]


class TestCallbacks:
    """What the loop calls back runs in the scope that asked for it."""

    async def seen_by(self, ask: Callable[[Callable[..., None]], object], Session: Proxy) -> object:
        seen: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        ask(lambda *_: seen.set_result((current_scope(), Session())))
        return await seen

    async def test_call_soon_and_the_like(self, Session: Proxy) -> None:
        loop = asyncio.get_running_loop()
        async with scope() as opened:
            here = (opened, Session())
            assert await self.seen_by(loop.call_soon, Session) == here
            assert await self.seen_by(loop.call_soon_threadsafe, Session) == here
            assert await self.seen_by(lambda function: loop.call_later(0, function), Session) == here
            task = asyncio.create_task(asyncio.sleep(0))
            assert await self.seen_by(task.add_done_callback, Session) == here


class TestAsyncGenerators:
    """A generator that opens a scope may be finished by whoever comes, in whichever Context."""

    async def numbers(self, Session: Proxy, finished: asyncio.Event) -> AsyncGenerator[int, None]:
        try:
            async with scope():
                stream = await Session.stream_scalars(text("SELECT generate_series(1, 1000)"))
                async for number in stream:
                    yield number
        finally:
            finished.set()

    async def test_closed_by_the_garbage_collector(self, Session: Proxy, engine: AsyncEngine) -> None:
        finished = asyncio.Event()
        assert await anext(self.numbers(Session, finished)) == 1
        gc.collect()
        await finished.wait()
        assert checked_out(engine) == 0

    async def test_closed_by_another_task(self, Session: Proxy, engine: AsyncEngine) -> None:
        numbers = self.numbers(Session, asyncio.Event())
        assert await anext(numbers) == 1
        await asyncio.create_task(numbers.aclose())
        assert checked_out(engine) == 0

    async def test_each_step_by_another_task(self, Session: Proxy, engine: AsyncEngine) -> None:
        numbers = self.numbers(Session, asyncio.Event())
        for expected in range(1, 4):
            assert await asyncio.create_task(anext(numbers)) == expected
        await numbers.aclose()
        assert checked_out(engine) == 0
