"""Law 11: the exit survives cancellation, and leaves no connection behind."""

import asyncio
import selectors
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, InterfaceError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from scoped_async import AsyncScopedSession, ScopeCleanupError, ScopedResource, scope
from watch import is_asleep, until

PID = text("SELECT pg_backend_pid()")


@pytest.fixture
def Session(engine: AsyncEngine) -> AsyncScopedSession[AsyncSession]:
    return AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))


def checked_out(engine: AsyncEngine) -> int:
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()


async def next_pid(engine: AsyncEngine) -> int:
    """The backend of the connection that the pool hands out next."""
    async with engine.connect() as connection:
        pid: int = await connection.scalar(PID)
        return pid


class TestLaw11TheExitSurvivesCancellation:
    """However often the exit is cancelled, once it is left each connection is handed back, or terminated.

    Cancelled at every await, by pairs and at random: see test_cancellation.py.
    """

    @pytest.fixture(autouse=True)
    def make_it_slow(self) -> None:
        """A resource whose commit or rollback says when it has begun, and waits until it may go on."""
        self.ending, self.go_on = asyncio.Event(), asyncio.Event()

        async def end(_: object) -> None:
            self.ending.set()
            await self.go_on.wait()

        self.slow = ScopedResource(object, commit=end, rollback=end)

    async def slow_and_then(
        self, Session: AsyncScopedSession[AsyncSession], pids: list[int], *, commit: bool
    ) -> None:
        """Use both, so that the slow one ends first: commits go in this order, rollbacks in the other."""
        if commit:
            self.slow()
        pids.append(await Session.scalar(PID))
        self.slow()

    @pytest.mark.parametrize("commit", [False, True])
    async def test_by_task_cancel_any_number_of_times(
        self, commit: bool, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        async def unit() -> None:
            async with scope(commit=commit):
                await self.slow_and_then(Session, pids, commit=commit)
            raise AssertionError("the cancellation was lost")

        pids: list[int] = []
        task = asyncio.create_task(unit())
        await self.ending.wait()
        for _ in range(3):
            task.cancel()
            await turns_of_the_loop()
        assert not task.done()
        assert checked_out(engine) == 1
        self.go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert checked_out(engine) == 0
        assert [await next_pid(engine)] == pids

    @pytest.mark.parametrize("commit", [False, True])
    async def test_by_an_anyio_cancel_scope(
        self, commit: bool, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        async def cancel() -> None:
            await self.ending.wait()
            cancel_scope.cancel()
            await turns_of_the_loop()
            assert checked_out(engine) == 1
            self.go_on.set()

        pids: list[int] = []
        with anyio.CancelScope() as cancel_scope:
            task = asyncio.create_task(cancel())
            async with scope(commit=commit):
                await self.slow_and_then(Session, pids, commit=commit)
            assert checked_out(engine) == 0
            await anyio.lowlevel.checkpoint()
            raise AssertionError("the cancellation was lost")
        await task
        assert [await next_pid(engine)] == pids

    def test_the_wait_under_a_cancelled_anyio_scope_does_not_spin(self) -> None:
        class CountingSelector(selectors.DefaultSelector):
            turns = 0

            def select(self, timeout: float | None = None) -> Any:
                self.turns += 1
                return super().select(timeout)

        async def unit() -> None:
            with anyio.CancelScope() as cancel_scope:
                async with scope():
                    self.slow()
                    asyncio.get_running_loop().call_later(0.1, self.go_on.set)
                    cancel_scope.cancel()

        selector = CountingSelector()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            runner.run(unit())
        assert selector.turns < 100

    async def test_one_that_is_on_its_way_when_the_exit_begins_is_raised_by_the_block(self) -> None:
        async def unit() -> None:
            async with scope() as opened:
                opened.after_commit(int)  # which the exit has nothing to wait for
                this = asyncio.current_task()
                assert this is not None
                this.cancel()
            raise AssertionError("the block was left as if nothing had happened")

        with pytest.raises(asyncio.CancelledError):
            await asyncio.create_task(unit())

    async def test_within_an_anyio_cancel_scope_that_is_cancelled_already(
        self, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        self.go_on.set()
        with anyio.CancelScope() as cancel_scope:
            async with scope():
                pid = await Session.scalar(PID)
                self.slow()
                cancel_scope.cancel()
                await anyio.sleep_forever()
        assert self.ending.is_set()
        assert checked_out(engine) == 0
        assert await next_pid(engine) == pid

    @pytest.mark.parametrize("in_the_exit", [True, False])
    async def test_a_connection_whose_rollback_failed_is_terminated(
        self, in_the_exit: bool, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        """A rollback fails on the client's side while the driver's own connection is still in use."""
        pids: list[int | None] = []

        async def unit() -> None:
            async with scope():
                pids.append(await Session.scalar(PID))
                driver: Any = (await (await Session.connection()).get_raw_connection()).driver_connection
                self.sleeping = asyncio.create_task(driver.fetch("SELECT pg_sleep(3600)"))
                await until(lambda: is_asleep(engine, pids[0]))
                if not in_the_exit:
                    await Session.rollback()

        with pytest.raises(InterfaceError, match="another operation is in progress"):
            await unit()
        assert checked_out(engine) == 0
        assert [await next_pid(engine)] != pids
        await asyncio.wait([self.sleeping])
        assert self.sleeping.exception() is not None

    async def test_a_connection_whose_close_failed_is_terminated(self, engine: AsyncEngine) -> None:
        class Stubborn(AsyncSession):
            async def close(self) -> None:
                await self.execute(PID)
                raise OSError("close")

        async def unit() -> None:
            async with scope():
                pids.append(await Session.scalar(PID))

        pids: list[int] = []
        Session = AsyncScopedSession(async_sessionmaker(engine, class_=Stubborn))
        with pytest.raises(OSError, match="close"):
            await unit()
        assert checked_out(engine) == 0
        assert [await next_pid(engine)] != pids

    @pytest.mark.parametrize("in_the_exit", [True, False])
    async def test_a_connection_whose_commit_failed_without_an_answer_is_terminated(
        self, in_the_exit: bool, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        async def unit() -> None:
            async with scope(commit=in_the_exit):
                pids.append(await Session.scalar(PID))
                if not in_the_exit:
                    await Session.commit()

        pids: list[int] = []
        fail_once(engine, "commit")
        with pytest.raises(OSError, match="commit"):
            await unit()
        assert checked_out(engine) == 0
        assert [await next_pid(engine)] != pids

    async def test_a_connection_on_which_something_still_runs_is_terminated(
        self, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        async def unit() -> None:
            async with scope(close_timeout=0.05):
                pids.append(await Session.scalar(PID))
                children.append(asyncio.create_task(Session.execute(text("SELECT pg_sleep(3600)"))))
                await turns_of_the_loop()

        pids: list[int] = []
        children: list[asyncio.Task[Any]] = []
        with pytest.raises(ScopeCleanupError, match="execute"):
            await unit()
        assert checked_out(engine) == 0
        assert [await next_pid(engine)] != pids
        with pytest.raises(DBAPIError):
            await children[0]
        assert checked_out(engine) == 0

    @pytest.mark.parametrize("in_the_exit", [True, False])
    def test_a_loop_that_shuts_down_leaves_no_connection_checked_out(
        self, in_the_exit: bool, postgres_url: str
    ) -> None:
        async def background(engine: AsyncEngine) -> None:
            Session = AsyncScopedSession(async_sessionmaker(engine))
            try:
                async with scope():
                    await Session.execute(PID)
                    kept.append(Session())
                    self.slow()
                    if not in_the_exit:
                        self.go_on.set()
                        in_the_body.set()
                        await asyncio.Event().wait()
            finally:
                still_out.append(checked_out(engine))
                await engine.dispose()

        async def main() -> "asyncio.Task[None]":
            task = asyncio.create_task(background(create_async_engine(postgres_url)))
            await (self.ending if in_the_exit else in_the_body).wait()
            return task

        in_the_body = asyncio.Event()
        kept: list[AsyncSession] = []  # from the garbage collector, which would give the connection back too
        still_out: list[int] = []
        task = asyncio.run(main())
        assert task.cancelled()
        assert still_out == [0]


def fail_once(engine: AsyncEngine, what: str) -> None:
    """Let the next ``what``, a commit or a rollback, fail on our side, before the server hears of it."""

    def fail(_: object) -> None:
        event.remove(engine.sync_engine, what, fail)
        raise OSError(what)

    event.listen(engine.sync_engine, what, fail)


async def turns_of_the_loop() -> None:
    """Let what is ready run."""
    for _ in range(20):
        await asyncio.sleep(0)
