"""Law 10: the exit closes everything, whatever fails in it."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import QueuePool

from scoped_async import AsyncScopedSession, ScopeClosedError, ScopedResource, current_scope, scope

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


class Oops(BaseException):
    """No Exception, like those that end a program or a test."""


def failing(error: BaseException, called: list[str], name: str) -> ScopedResource[str]:
    def close(name: str) -> None:
        called.append(name)
        raise error

    return ScopedResource(lambda: name, close=close)


class TestLaw10TheExitClosesEverything:
    """The exit closes everything, newest first; what fails skips nothing, hides nothing, is never lost."""

    async def test_newest_first(self) -> None:
        closed: list[str] = []
        async with scope():
            ScopedResource(lambda: "a", close=closed.append)()
            ScopedResource(lambda: "b", close=closed.append)()
            ScopedResource(lambda: "c", close=closed.append)()
        assert closed == ["c", "b", "a"]

    @pytest.mark.parametrize("error", [ValueError("close"), Oops("close"), asyncio.CancelledError("close")])
    async def test_a_failure_does_not_skip_the_others_and_is_raised(
        self, error: BaseException, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        async def unit() -> None:
            async with opened:
                ScopedResource(lambda: "first", close=called.append)()
                await Session.execute(PID)
                failing(error, called, "last")()

        called: list[str] = []
        opened = scope()
        with pytest.raises(type(error), match="close"):
            await unit()
        assert called == ["last", "first"]
        assert checked_out(engine) == 0
        assert current_scope(None) is None

    async def test_several_are_raised_as_one_group(self) -> None:
        async def unit() -> None:
            async with scope(name="the_scope"):
                for error in errors:
                    failing(error, called, str(error))()

        called: list[str] = []
        errors = [ValueError("first"), OSError("second")]
        with pytest.raises(ExceptionGroup) as caught:
            await unit()
        assert list(caught.value.exceptions) == errors[::-1]
        assert "the_scope" in caught.value.message
        assert called == ["second", "first"]

    @pytest.mark.parametrize("error", [ValueError, Oops])
    @pytest.mark.parametrize("exc", [LookupError, Oops, asyncio.CancelledError])
    async def test_the_exception_on_its_way_stays_and_has_the_failures_as_notes(
        self, exc: type[BaseException], error: type[BaseException]
    ) -> None:
        async def unit() -> None:
            async with scope():
                failing(error("first"), called, "first")()
                failing(error("second"), called, "second")()
                raise body

        called: list[str] = []
        body = exc("body")
        with pytest.raises(exc, match="body") as caught:
            await unit()
        assert caught.value is body
        assert called == ["second", "first"]
        assert [note.split("(")[-1] for note in body.__notes__] == ["'second')", "'first')"]

    async def test_nothing_is_only_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        heard: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context))
        with pytest.raises(ValueError, match="close"):
            async with scope():
                failing(ValueError("close"), [], "a")()
        assert not heard
        assert not caplog.records

    async def test_a_cancellation_of_the_exit_comes_out_with_the_bodys_exception_as_context(
        self,
    ) -> None:
        async def close(_: str) -> None:
            closing.set()
            await go_on.wait()
            raise OSError("close")

        async def unit() -> None:
            async with scope():
                ScopedResource(lambda: "slow", close=close)()
                raise LookupError("body")

        closing, go_on = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(unit())
        await closing.wait()
        task.cancel("stop")
        asyncio.get_running_loop().call_soon(go_on.set)
        with pytest.raises(asyncio.CancelledError, match="stop") as caught:
            await task
        raised: BaseException | None = caught.value
        while raised is not None and not hasattr(raised, "__notes__"):  # the task may raise it anew
            raised = raised.__context__
        assert raised is not None
        assert isinstance(raised.__context__, LookupError)
        assert "close" in raised.__notes__[0]

    async def test_what_a_close_hook_touches_does_not_outlive_the_scope(
        self, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        async def close(_: object) -> None:
            reached.append(None)
            await Session.execute(PID)

        async def unit() -> None:
            async with scope():
                older()
                await Session.execute(PID)
                newer()

        reached: list[None] = []
        older, newer = ScopedResource(object, close=close), ScopedResource(object, close=close)
        with pytest.raises(ExceptionGroup) as caught:
            await unit()
        assert len(reached) == 2
        assert [type(error) for error in caught.value.exceptions] == [ScopeClosedError] * 2
        assert checked_out(engine) == 0


async def test_exits_within_exits_take_no_room_on_the_stack() -> None:
    """Each ends by a hook that opens the next scope."""

    async def follow(numbers: list[int]) -> None:
        async with scope(commit=True):
            if numbers.pop():
                chain()

    numbers = list(range(1_000))
    chain = ScopedResource(lambda: numbers, commit=follow)
    await follow(numbers)
    assert numbers == []
