"""Law 3, every boundary once: ways to wait, and event loops, on whose other side the scope is the same."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import uvloop
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session as SyncSession
from sqlalchemy.pool import QueuePool

from scoped_async import AsyncScopedSession, Scope, current_scope, scope

greenlet: Any = import_module("greenlet")  # has no types of its own
Work = Coroutine[Any, Any, Any]
Proxy = AsyncScopedSession[AsyncSession]


@pytest.fixture
def Session(engine: AsyncEngine) -> Proxy:
    return AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))


async def here(Session: Proxy) -> tuple[Scope, AsyncSession, int]:
    """The scope that is current, its session, and the server's end of its connection."""
    return current_scope(), Session(), await Session.scalar(text("SELECT pg_backend_pid()"))


async def a_scope_of_its_own(Session: Proxy) -> Scope:
    """One whose exit has to wait for more than the COMMIT."""

    def ask_the_server(session: SyncSession) -> None:
        session.execute(text("SELECT 1"))

    async with scope(commit=True) as opened:
        await here(Session)
        event.listen(Session().sync_session, "before_commit", ask_the_server)
    return opened


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


async def bare(work: Work) -> Any:
    return await work


async def task(work: Work) -> Any:
    return await asyncio.create_task(work)


async def wait_for(work: Work) -> Any:
    return await asyncio.wait_for(work, 30)


async def timeout(work: Work) -> Any:
    async with asyncio.timeout(30):
        return await work


async def fail_after(work: Work) -> Any:
    with anyio.fail_after(30):
        return await work


async def shield(work: Work) -> Any:
    return await asyncio.shield(work)


async def gather(work: Work) -> Any:
    return (await asyncio.gather(work, return_exceptions=True))[0]


async def wait(work: Work) -> Any:
    done, _ = await asyncio.wait([asyncio.ensure_future(work)])
    return done.pop().result()


async def as_completed(work: Work) -> Any:
    return await next(iter(asyncio.as_completed([work])))


async def task_group(work: Work) -> Any:
    async with asyncio.TaskGroup() as group:
        child = group.create_task(work)
    return child.result()


async def anyio_task_group(work: Work) -> Any:
    async def child() -> None:
        seen.append(await work)

    seen: list[Any] = []
    async with anyio.create_task_group() as group:
        group.start_soon(child)
    return seen[0]


async def exit_stack(work: Work) -> Any:
    seen: list[Any] = []

    async def run() -> None:
        seen.append(await work)

    async with AsyncExitStack() as stack:
        stack.push_async_callback(run)
    return seen[0]


async def async_context_manager(work: Work) -> Any:
    @asynccontextmanager
    async def manager() -> AsyncIterator[Any]:
        yield await work

    async with manager() as seen:
        return seen


class InAGreenlet:
    """As greenback does it: the steps of the work are taken in a greenlet that is not the task's own."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = greenlet.greenlet(self._steps)
        inner.gr_context = greenlet.getcurrent().gr_context
        has_ended, value = inner.switch()
        while not has_ended:
            try:
                sent = yield value
            except BaseException as error:
                has_ended, value = inner.throw(error)
            else:
                has_ended, value = inner.switch(sent)
        return value

    def _steps(self) -> tuple[bool, Any]:
        step: Callable[[Any], Any] = self.work.send
        value: Any = None
        while True:
            try:
                waiting = step(value)
            except StopIteration as end:
                return True, end.value
            try:
                step, value = self.work.send, greenlet.getcurrent().parent.switch((False, waiting))
            except BaseException as error:
                step, value = self.work.throw, error


async def in_a_greenlet(work: Work) -> Any:
    return await InAGreenlet(work)


WAYS_TO_WAIT: list[Callable[[Work], Work]] = [
    bare, task, wait_for, timeout, fail_after, shield, gather, wait, as_completed, task_group,
    anyio_task_group, exit_stack, async_context_manager, in_a_greenlet,
]  # fmt: skip


class TestWaysToWait:
    """However the work is awaited, it works on the session of the scope, and so does what comes after."""

    @pytest.mark.parametrize("way", WAYS_TO_WAIT)
    async def test_the_scope_stays_the_same(self, way: Callable[[Work], Work], Session: Proxy) -> None:
        async with scope():
            first = await here(Session)
            assert await way(here(Session)) == first
            assert await here(Session) == first

    @pytest.mark.parametrize("way", WAYS_TO_WAIT)
    async def test_also_when_the_work_is_the_first_to_touch_it(
        self, way: Callable[[Work], Work], Session: Proxy
    ) -> None:
        async with scope():
            first = await way(here(Session))
            assert await here(Session) == first

    @pytest.mark.parametrize("way", WAYS_TO_WAIT)
    async def test_a_scope_of_its_own_ends_within(
        self, way: Callable[[Work], Work], Session: Proxy, engine: AsyncEngine
    ) -> None:
        async with scope() as outer:
            assert (await way(a_scope_of_its_own(Session))).closed
            assert checked_out(engine) == 0
            assert current_scope() is outer


class TestEventLoops:
    """On every loop, with every task factory, and with asyncio.Runner."""

    def run(self, url: str, **options: Any) -> None:
        """Go through every way to wait on a loop of its own."""

        async def unit() -> None:
            engine = create_async_engine(url)
            Session: Proxy = AsyncScopedSession(async_sessionmaker(engine))
            for way in WAYS_TO_WAIT:
                async with scope(commit=True) as opened:
                    first = await here(Session)
                    assert await way(here(Session)) == first
                    assert (await way(a_scope_of_its_own(Session))).closed
                    assert current_scope() is opened
                assert current_scope(None) is None
                assert checked_out(engine) == 0
            await engine.dispose()

        with asyncio.Runner(**options) as runner:
            runner.run(unit())

    def test_uvloop(self, postgres_url: str) -> None:
        self.run(postgres_url, loop_factory=uvloop.new_event_loop)

    def test_debug_mode(self, postgres_url: str) -> None:
        self.run(postgres_url, debug=True)

    if sys.version_info >= (3, 12):

        def test_eager_tasks(self, postgres_url: str) -> None:
            def eager_loop() -> asyncio.AbstractEventLoop:
                loop = asyncio.new_event_loop()
                loop.set_task_factory(asyncio.eager_task_factory)
                return loop

            self.run(postgres_url, loop_factory=eager_loop)

        async def test_what_an_eager_task_opens_is_unseen_by_its_parent(self) -> None:
            async def child() -> Scope:
                async with scope() as own:
                    await leave.wait()
                    return own

            leave = asyncio.Event()
            async with scope() as parent:
                task = asyncio.Task(child(), loop=asyncio.get_running_loop(), eager_start=True)
                assert current_scope() is parent
                leave.set()
                assert (await task).closed
                assert current_scope() is parent

    def test_a_runner_keeps_what_its_first_run_has_opened(self, postgres_url: str) -> None:
        async def enter() -> None:
            await opened.__aenter__()
            seen.append(await here(Session))

        async def go_on() -> None:
            seen.append(await here(Session))

        async def leave() -> None:
            await opened.__aexit__(None, None, None)
            assert current_scope(None) is None
            assert checked_out(engine) == 0
            await engine.dispose()

        engine = create_async_engine(postgres_url)
        Session: Proxy = AsyncScopedSession(async_sessionmaker(engine))
        opened = scope()
        seen: list[Any] = []
        with asyncio.Runner() as runner:
            for step in (enter, go_on, leave):
                runner.run(step())
        assert seen[0] == seen[1]
