"""Laws 4 and 5: where and in which order scopes are left, and how often they are entered."""

import asyncio
import contextvars
import gc
import inspect
from collections.abc import AsyncGenerator
from itertools import permutations
from typing import Any

import pytest

from scoped_async import (
    Scope,
    ScopeClosedError,
    ScopedResource,
    ScopeError,
    current_scope,
    scope,
)


class Watched(ScopedResource[Scope]):
    """A resource that remembers in which scopes it was closed."""

    def __init__(self) -> None:
        self.closed: list[Scope] = []
        super().__init__(current_scope, close=self.closed.append)


@pytest.fixture
def watched() -> Watched:
    return Watched()


async def in_scope(watched: Watched, finished: asyncio.Event | None = None) -> AsyncGenerator[Scope, None]:
    try:
        async with scope() as opened:
            watched()
            yield opened
    finally:
        if finished is not None:
            finished.set()


class TestLaw04AScopeMayBeLeftAnywhere:
    """Left in another Context or in another order than it was entered, a scope is cleaned up all the same."""

    async def test_it_may_be_left_by_another_task_than_entered_it(self, watched: Watched) -> None:
        async def leave() -> None:
            await opened.__aexit__(None, None, None)
            assert current_scope(None) is None

        opened = scope()
        await opened.__aenter__()
        watched()
        await asyncio.create_task(leave())
        assert watched.closed == [opened]

    async def test_it_may_be_left_by_a_task_that_never_inherited_it(self, watched: Watched) -> None:
        async def enter() -> None:
            await opened.__aenter__()
            watched()

        opened = scope()
        async with scope() as own:
            await asyncio.create_task(enter())
            assert current_scope() is own
            await opened.__aexit__(None, None, None)
            assert current_scope() is own
        assert watched.closed == [opened]

    async def test_other_contexts_that_inherited_it_keep_seeing_it_dead(self) -> None:
        async def child() -> None:
            await left.wait()
            with pytest.raises(ScopeClosedError, match="inner"):
                current_scope()

        left = asyncio.Event()
        async with scope(name="outer") as outer:
            inner = scope(name="inner")
            await inner.__aenter__()
            task = asyncio.create_task(child())
            await asyncio.create_task(inner.__aexit__(None, None, None))
            with pytest.raises(ScopeClosedError, match="inner"):
                current_scope()
            left.set()
            await task
            assert not outer.closed

    async def test_once_such_a_context_has_left_a_scope_of_its_own_it_sees_the_nearest_open_too(self) -> None:
        async def child() -> None:
            await left.wait()
            async with scope():
                pass
            assert current_scope() is outer

        left = asyncio.Event()
        async with scope() as outer:
            async with scope():
                task = asyncio.create_task(child())
            left.set()
            await task

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    async def test_left_in_any_order_the_nearest_that_is_open_is_current(
        self, order: tuple[int, ...]
    ) -> None:
        scopes = [scope(), scope(), scope()]
        still_open = [await each.__aenter__() for each in scopes]
        for index in order:
            await scopes[index].__aexit__(None, None, None)
            still_open = [each for each in still_open if not each.closed]
            assert current_scope(None) is (still_open[-1] if still_open else None)

    @pytest.mark.parametrize("order", list(permutations(range(3))))
    async def test_so_it_is_in_a_task_that_inherited_them(self, order: tuple[int, ...]) -> None:
        scopes = [scope(), scope(), scope()]
        still_open = [await each.__aenter__() for each in scopes]
        contexts = contextvars.copy_context()
        for index in order:
            leave = scopes[index].__aexit__(None, None, None)
            await asyncio.create_task(leave, context=contexts)
            still_open = [each for each in still_open if not each.closed]
            assert contexts.run(current_scope, None) is (still_open[-1] if still_open else None)

    async def test_an_async_generator_may_be_finished_by_another_task(self, watched: Watched) -> None:
        generator = in_scope(watched)
        opened = await anext(generator)
        await asyncio.create_task(generator.aclose())
        assert opened.closed
        assert watched.closed == [opened]

    async def test_an_async_generator_may_be_finished_by_the_garbage_collector(
        self, watched: Watched
    ) -> None:
        async def start() -> Scope:
            return await anext(in_scope(watched, finished))

        finished = asyncio.Event()
        opened = await asyncio.create_task(start())
        gc.collect()
        await finished.wait()
        assert opened.closed
        assert watched.closed == [opened]


class TestLaw05AScopeIsEnteredOnce:
    """A scope() object is entered once; a decorated function opens a fresh scope per call."""

    @pytest.mark.parametrize("propagation", ["new", "join", "nested"])
    async def test_entering_it_again_is_an_error_and_leaves_the_first_use_unharmed(
        self, propagation: Any, watched: Watched
    ) -> None:
        opener = scope(propagation=propagation)
        async with opener as opened:
            watched()
            with pytest.raises(ScopeError, match="entered"):
                await opener.__aenter__()
            assert current_scope() is opened
            assert not opened.closed
        assert opened.closed
        assert current_scope(None) is None
        with pytest.raises(ScopeError, match="entered"):
            await opener.__aenter__()
        assert current_scope(None) is None

    async def test_a_decorated_function_opens_a_fresh_scope_per_call(self) -> None:
        @scope()
        async def decorated() -> Scope:
            opened = current_scope()
            await everybody.wait()
            assert current_scope() is opened
            return opened

        everybody = asyncio.Barrier(10)
        seen = await asyncio.gather(*(decorated() for _ in range(10)))
        assert len(set(seen)) == 10
        assert all(opened.closed for opened in seen)

    async def test_a_decorated_function_has_the_name_that_is_given(self) -> None:
        @scope(name="transfer")
        async def decorated() -> str:
            return current_scope().name

        assert await decorated() == "transfer"

    async def test_a_decorated_function_keeps_its_signature_and_may_call_itself(self) -> None:
        @scope()
        async def depth(levels: int) -> int:
            """How many scopes are open."""
            if levels > 1:
                return await depth(levels - 1)
            opened, count = current_scope(), 1
            while opened.parent is not None:
                opened, count = opened.parent, count + 1
            return count

        assert await depth(3) == 3
        assert depth.__doc__ == "How many scopes are open."
        assert list(inspect.signature(depth).parameters) == ["levels"]
        assert inspect.iscoroutinefunction(depth)

    @pytest.mark.parametrize("propagation", ["new", "join"])
    @pytest.mark.parametrize("thing", [len, lambda: None, in_scope, int, 1])
    def test_decorating_anything_but_a_coroutine_function_fails_at_once(
        self, thing: Any, propagation: Any
    ) -> None:
        with pytest.raises(TypeError, match="coroutine function"):
            scope(propagation=propagation)(thing)
