"""Law 12: the exit takes no longer than it may."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.pool import QueuePool

from scoped_async import AsyncScopedSession, ScopeCleanupError, ScopedResource, current_scope, scope
from scoped_async._budget import Budget


class SkippingLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock can be put forward, so that what takes seconds need not be waited for."""

    skipped = 0.0

    def time(self) -> float:
        return super().time() + self.skipped


async def takes(seconds: float) -> None:
    """What goes on for so many seconds, unless it is stopped before."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    ended = loop.create_future()
    loop.call_later(seconds, ended.set_result, None)
    loop.skipped += seconds
    await ended


def run(unit: Callable[[], Awaitable[Any]]) -> Any:
    """Run a unit of work on a loop whose clock can be put forward."""
    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(unit())  # type: ignore[arg-type]


def resource(**seconds: float | None) -> ScopedResource[str]:
    """One whose hooks take so many seconds."""
    hooks: dict[str, Any] = {hook: lambda _, s=s: takes(s) for hook, s in seconds.items()}
    return ScopedResource(lambda: "resource", **hooks)


class TestLaw12TheExitIsBounded:
    """Waiting for others, rollback and close share ``close_timeout``; a commit has as much of its own."""

    @pytest.mark.parametrize("hook", ["rollback", "close"])
    def test_past_it_the_exit_goes_on_and_says_so(self, hook: str) -> None:
        async def unit() -> None:
            async with scope(name="the_scope"):
                older()
                resource(**{hook: 11})()

        closed: list[str] = []
        older = ScopedResource(lambda: "older", close=closed.append)
        with pytest.raises(ScopeCleanupError, match=r"the_scope .* close_timeout=10\.0 s"):
            run(unit)
        assert closed == ["older"]

    def test_within_it_nothing_is_said(self) -> None:
        async def unit() -> None:
            async with scope():
                resource(rollback=4, close=5)()

        run(unit)

    def test_its_parts_share_it(self) -> None:
        async def unit() -> None:
            async with scope(close_timeout=10):
                resource(close=4)()
                resource(rollback=4, close=4)()

        with pytest.raises(ScopeCleanupError):
            run(unit)

    def test_the_scope_that_is_left_too_late_is_left_all_the_same(self) -> None:
        async def unit() -> None:
            async with scope() as outer:
                with pytest.raises(ScopeCleanupError):
                    async with scope() as inner:
                        resource(close=11)()
                assert inner.closed
                assert current_scope() is outer

        run(unit)

    def test_with_an_exception_on_its_way_it_becomes_a_note(self) -> None:
        async def unit() -> None:
            async with scope():
                resource(close=11)()
                raise LookupError

        with pytest.raises(LookupError) as caught:
            run(unit)
        assert "close_timeout" in caught.value.__notes__[0]

    @pytest.mark.parametrize("hook", ["rollback", "close"])
    def test_a_hook_that_swallows_its_cancellation_past_it_is_no_way_around(self, hook: str) -> None:
        async def unit() -> None:
            async with scope(name="the_scope"):
                older()
                ScopedResource(lambda: "stubborn", **{hook: swallow})()

        async def swallow(_: str) -> None:
            with suppress(asyncio.CancelledError):
                await takes(11)
            swallowed.append(hook)

        swallowed: list[str] = []
        closed: list[str] = []
        older = ScopedResource(lambda: "older", close=closed.append)
        with pytest.raises(ScopeCleanupError, match=r"the_scope .* close_timeout=10\.0 s"):
            run(unit)
        assert swallowed == [hook]
        assert closed == ["older"]

    async def test_a_cancellation_that_comes_after_it_is_not_lost(self) -> None:
        """Of what has swallowed its own: it is another's, and has to come out."""

        async def swallow() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                late.set()
                await asyncio.Event().wait()

        late = asyncio.Event()
        task = asyncio.create_task(Budget(0.01).spend(swallow(), lambda: None))
        await late.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def test_nor_is_a_commit_that_swallows_it(self) -> None:
        async def unit() -> None:
            async with scope(commit=True):
                ScopedResource(lambda: "stubborn", commit=swallow)()

        async def swallow(_: str) -> None:
            with suppress(asyncio.CancelledError):
                await takes(11)

        with pytest.raises(ScopeCleanupError, match=r"outcome of the commit .* unknown"):
            run(unit)

    def test_a_commit_has_as_much_of_its_own(self) -> None:
        async def unit() -> None:
            async with scope(commit=True):
                resource(commit=9, close=9)()

        run(unit)

    def test_past_that_the_outcome_of_the_commit_is_unknown(self) -> None:
        async def unit() -> None:
            async with scope(commit=True) as opened:
                opened.after_commit(called.append, "committed")
                opened.after_rollback(called.append, "rolled back")
                resource(commit=11)()

        called: list[str] = []
        with pytest.raises(ScopeCleanupError, match=r"outcome of the commit .* unknown"):
            run(unit)
        assert called == []

    def test_commits_in_the_body_are_not_bounded(self) -> None:
        async def unit() -> None:
            async with scope(close_timeout=1) as opened:
                resource(commit=3600)()
                await opened.commit()

        run(unit)

    def test_callbacks_are_not_bounded_and_take_nothing_from_it(self) -> None:
        async def unit() -> None:
            async with scope(commit=True) as opened:
                resource(close=9)()
                opened.after_commit(takes, 3600)

        run(unit)

    def test_none_is_no_bound(self) -> None:
        async def unit() -> None:
            async with scope(commit=True, close_timeout=None):
                resource(commit=3600, close=3600)()

        run(unit)

    @pytest.mark.parametrize("seconds", [-1, math.nan, "5", timedelta(seconds=5)])
    def test_what_is_no_bound_is_refused(self, seconds: Any) -> None:
        with pytest.raises(ValueError, match="close_timeout is in seconds"):
            scope(close_timeout=seconds)

    async def test_a_session_that_others_still_use_is_invalidated(self, engine: AsyncEngine) -> None:
        async def statement() -> None:
            begun.set()
            await Session.execute(text("SELECT pg_sleep(3600)"))

        async def unit() -> None:
            async with scope(commit=True, close_timeout=0.05) as opened:
                opened.after_commit(called.append, "committed")
                opened.after_rollback(called.append, "rolled back")
                other()
                tasks.append(asyncio.create_task(statement()))
                await begun.wait()

        begun = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []
        called: list[str] = []
        other = ScopedResource(lambda: "other", commit=called.append)
        Session = AsyncScopedSession(async_sessionmaker(engine))
        with pytest.raises(ScopeCleanupError, match="execute"):
            await unit()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert called == ["rolled back"]
        assert isinstance(engine.pool, QueuePool)
        assert engine.pool.checkedout() == 0
        async with scope():
            assert await Session.scalar(text("SELECT 1")) == 1
