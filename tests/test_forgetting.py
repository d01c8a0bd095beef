"""Law 13: a dead scope keeps nothing alive, and one that is forgotten open says so."""

import asyncio
import contextvars
import gc
import tracemalloc
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from scoped_async import AsyncScopedSession, Scope, ScopedResource, current_scope, scope


class Thing:
    """Something that can be referred to weakly."""


def is_gone(reference: "weakref.ref[Any]") -> bool:
    gc.collect()
    return reference() is None


class TestLaw13ADeadScopeKeepsNothingAlive:
    """A dead scope keeps nothing alive, not its parent, not its resources, not what it was called with."""

    async def test_not_its_resources(self) -> None:
        resource = ScopedResource(Thing, close=lambda _: None)
        async with scope() as kept:
            thing = weakref.ref(resource())
        assert is_gone(thing)
        assert kept.closed

    async def test_not_its_session(self, sqlite_engine: AsyncEngine) -> None:
        Session: AsyncScopedSession[AsyncSession] = AsyncScopedSession(async_sessionmaker(sqlite_engine))
        async with scope() as kept:
            await Session.connection()
            session = weakref.ref(Session())
        assert is_gone(session)
        assert kept.closed

    async def test_not_its_callbacks(self) -> None:
        thing = Thing()
        reference = weakref.ref(thing)
        async with scope() as kept:
            kept.after_commit(str, thing)
            kept.after_rollback(str, thing)
            del thing
        assert is_gone(reference)

    async def test_not_its_parent_nor_what_its_parent_holds(self) -> None:
        async with scope() as parent:
            async with scope() as kept:
                pass
            async with scope() as outlives:
                late = asyncio.create_task(asyncio.Event().wait())
        reference = weakref.ref(parent)
        del parent
        assert is_gone(reference)
        assert kept.parent is None
        assert outlives.closed
        late.cancel()

    @pytest.mark.parametrize("propagation", ["join", "nested"])
    async def test_neither_does_a_block_that_has_ended(self, propagation: str) -> None:
        async def outlive() -> None:
            inherited.append(contextvars.copy_context())
            await asyncio.Event().wait()

        inherited: list[contextvars.Context] = []
        resource = ScopedResource(Thing)
        async with scope():
            thing = weakref.ref(resource())
            async with scope(propagation=propagation):  # type: ignore[arg-type]
                late = asyncio.create_task(outlive())
                await asyncio.sleep(0)
        assert is_gone(thing)
        late.cancel()

    async def test_not_the_exception_that_left_it(self) -> None:
        class Failure(Exception):
            pass

        async def fail() -> None:
            async with scope() as opened:
                kept.append(opened)
                resource()
                raise Failure

        kept: list[Scope] = []
        resource = ScopedResource(Thing, close=lambda _: None)
        try:
            await fail()
        except Failure as failure:
            reference = weakref.ref(failure)
        assert is_gone(reference)


Link = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""One task of a chain: opens a scope, and starts the next task inside."""


class TestLaw13AChainOfTasksKeepsItsSize:
    """A task that starts its own successor 100,000 times holds as much at the end as after ten."""

    async def chain(self, length: int, link: Link) -> None:
        """Let each task start the next one from inside its scope."""

        async def run(rest: int) -> None:
            await link(lambda: start(rest - 1))

        def start(rest: int) -> None:
            if rest:
                running[:] = [asyncio.create_task(run(rest))]
            else:
                ended.set()

        running: list[asyncio.Task[None]] = []
        ended = asyncio.Event()
        start(length)
        await ended.wait()
        await running[0]

    async def alone(self, start_next: Callable[[], None]) -> None:
        async with scope():
            start_next()

    async def with_a_resource(self, start_next: Callable[[], None]) -> None:
        async with scope():
            self.resource()
            start_next()

    async def joined(self, start_next: Callable[[], None]) -> None:
        async with scope(propagation="join"):
            start_next()

    async def two_deep(self, start_next: Callable[[], None]) -> None:
        async with scope(), scope(propagation="nested"):
            start_next()

    resource = ScopedResource(Thing)

    async def test_it_holds_as_much_at_the_end_as_after_ten(self) -> None:
        tracemalloc.start()
        try:
            await self.chain(10, self.alone)
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
            await self.chain(100_000, self.alone)
            gc.collect()
            after = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert after - before < 10_000  # a tenth of a byte for each

    @pytest.mark.parametrize("link", ["with_a_resource", "joined", "two_deep"])
    async def test_so_it_is_with_resources_and_blocks(self, link: str) -> None:
        await self.chain(10, getattr(self, link))
        before = objects_of_ours()
        await self.chain(1_000, getattr(self, link))
        assert objects_of_ours() == before

    @pytest.mark.parametrize("link", ["alone", "with_a_resource", "joined", "two_deep"])
    async def test_so_it_is_within_a_scope_that_stays_open(self, link: str) -> None:
        async with scope() as opened:
            self.resource()
            await self.test_so_it_is_with_resources_and_blocks(link)
            assert current_scope() is opened


def objects_of_ours() -> Counter[str]:
    """The objects that there are of each type of the package."""
    gc.collect()
    types = [type(each) for each in gc.get_objects()]
    return Counter(each.__qualname__ for each in types if str(each.__module__).startswith("scoped_async."))


class TestLaw13AScopeForgottenOpenSaysSo:
    """A scope collected by the garbage collector while open warns with where it was opened."""

    async def test_with_a_resource_warning(self) -> None:
        def enter() -> None:
            with pytest.raises(StopIteration):
                scope(name="forgotten").__aenter__().send(None)

        def forget() -> None:
            contextvars.copy_context().run(enter)
            gc.collect()

        with pytest.warns(ResourceWarning, match=r"forgotten, opened at test_forgetting\.py:\d+, was never"):
            forget()

    async def test_one_that_was_left_or_never_entered_does_not(self) -> None:
        async with scope():
            scope()
        gc.collect()
