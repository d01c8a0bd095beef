"""Laws 1 to 3: which scope is current, and where."""

import asyncio
import contextvars
import inspect
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest

from scoped_async import (
    NoScopeError,
    Scope,
    current_scope,
    scope,
)


async def read() -> Scope | None:
    """The scope that is current where this runs."""
    return current_scope(None)


def line() -> int:
    """The line that calls this."""
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


class TestLaw01TheTokenIsTheIdentity:
    """Entering a scope sets the one ContextVar, and the Token that this returns is the scope's identity."""

    async def test_entering_sets_one_context_variable_and_the_token_is_what_that_returned(self) -> None:
        before = dict(contextvars.copy_context())
        async with scope() as opened:
            changed = {
                var for var, value in contextvars.copy_context().items() if before.get(var) is not value
            }
            assert opened.token is not None
            assert changed == {opened.token.var}
            assert opened.token.var.get() is opened
            assert opened.token.old_value is contextvars.Token.MISSING

    async def test_every_scope_has_a_token_of_its_own_and_of_the_same_variable(self) -> None:
        async with scope() as outer, scope() as inner:
            assert outer.token is not None
            assert inner.token is not None
            assert outer.token is not inner.token
            assert outer.token.var is inner.token.var
            assert inner.token.old_value is outer

    async def test_a_scope_compares_and_hashes_as_itself_before_and_after_its_exit(self) -> None:
        async with scope() as one, scope() as other:
            known = {one: "one", other: "other"}
            assert one != other
        assert known == {one: "one", other: "other"}
        with pytest.raises(TypeError, match="unhashable"):
            async with scope() as opened:
                hash(opened.token)

    async def test_after_the_exit_token_and_parent_are_none_while_name_and_place_stay(self) -> None:
        async with scope() as outer:
            async with scope(name="inner") as inner:
                place = f"test_identity.py:{line() - 1}"
                assert inner.token is not None
                assert inner.parent is outer
            assert inner.closed
            assert inner.token is None
            assert inner.parent is None
            assert (inner.name, inner.opened_at) == ("inner", place)
        assert outer.closed
        assert outer.token is None
        assert outer.parent is None

    async def test_before_it_is_entered_a_scope_has_neither_token_nor_parent(self) -> None:
        unused = scope()
        assert isinstance(unused, Scope)
        assert unused.token is None
        assert unused.parent is None

    async def test_the_name_defaults_to_the_function_that_opens_or_is_decorated(self) -> None:
        @scope()
        async def decorated() -> str:
            return current_scope().name

        here = (
            "TestLaw01TheTokenIsTheIdentity.test_the_name_defaults_to_the_function_that_opens_or_is_decorated"
        )
        async with scope() as opened:
            assert opened.name == here
        assert await decorated() == f"{here}.<locals>.decorated"

    async def test_the_parent_is_never_a_dead_scope_but_the_nearest_that_is_open(self) -> None:
        async with scope() as root:
            middle = scope()
            await middle.__aenter__()
            async with scope() as inner:
                assert inner.parent is middle
                await middle.__aexit__(None, None, None)
                assert inner.parent is root
        middle = scope()
        await middle.__aenter__()
        async with scope() as inner:
            await middle.__aexit__(None, None, None)
            assert inner.parent is None


class TestLaw02WhatIsStartedInsideInherits:
    """A child task, a callback and a worker thread inherit; what they open or leave stays theirs."""

    async def test_a_child_task_inherits(self) -> None:
        async with scope() as opened:
            assert await asyncio.create_task(read()) is opened

    async def test_a_callback_inherits(self) -> None:
        async with scope() as opened:
            seen = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_soon(lambda: seen.set_result(current_scope(None)))
            assert await seen is opened

    async def test_a_worker_thread_of_asyncio_and_of_anyio_inherits(self) -> None:
        async with scope() as opened:
            assert await asyncio.to_thread(current_scope) is opened
            assert await anyio.to_thread.run_sync(current_scope) is opened

    async def test_a_bare_thread_and_an_executor_inherit_only_where_python_lets_threads_inherit(self) -> None:
        def look() -> None:
            try:
                seen.append(current_scope())
            except NoScopeError as error:
                seen.append(error)

        seen: list[Scope | NoScopeError] = []
        async with scope() as opened:
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
            await asyncio.get_running_loop().run_in_executor(None, look)
            if getattr(sys.flags, "thread_inherit_context", False):
                assert seen[0] is opened
            else:
                assert [type(each) for each in seen] == [NoScopeError, NoScopeError]
                assert "asyncio.to_thread" in str(seen[0])

    async def test_what_a_child_opens_is_unseen_by_its_parent_while_open_and_after(self) -> None:
        async def child() -> None:
            async with scope() as own:
                assert current_scope() is own
                opened.set()
                await leave.wait()

        opened, leave = asyncio.Event(), asyncio.Event()
        async with scope() as parent:
            task = asyncio.create_task(child())
            await opened.wait()
            assert current_scope() is parent
            leave.set()
            await task
            assert current_scope() is parent

    async def test_what_a_child_leaves_of_its_own_is_unseen_by_its_parent(self) -> None:
        async def child() -> None:
            first, second = scope(), scope()
            await first.__aenter__()
            await second.__aenter__()
            await first.__aexit__(None, None, None)
            await second.__aexit__(None, None, None)
            assert current_scope() is parent

        async with scope() as parent:
            await asyncio.gather(child(), child())
            assert current_scope() is parent

    async def test_what_a_worker_thread_opens_in_a_loop_of_its_own_is_unseen_too(self) -> None:
        async def in_thread() -> tuple[Scope, Scope | None]:
            async with scope() as own:
                return own, own.parent

        async with scope() as parent:
            own, its_parent = await asyncio.to_thread(lambda: asyncio.run(in_thread()))
            assert own.closed
            assert its_parent is parent
            assert current_scope() is parent


async def wait_for(work: Awaitable[Scope | None]) -> Scope | None:
    return await asyncio.wait_for(work, 30)


async def shield(work: Awaitable[Scope | None]) -> Scope | None:
    return await asyncio.shield(work)


async def gather(work: Awaitable[Scope | None]) -> Scope | None:
    return (await asyncio.gather(work))[0]


async def as_completed(work: Awaitable[Scope | None]) -> Scope | None:
    return await next(iter(asyncio.as_completed([work])))


async def task_group(work: Coroutine[Any, Any, Scope | None]) -> Scope | None:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(work)
    return task.result()


async def anyio_task_group(work: Awaitable[Scope | None]) -> Scope | None:
    async def child() -> None:
        seen.append(await work)

    seen: list[Scope | None] = []
    async with anyio.create_task_group() as group:
        group.start_soon(child)
    return seen[0]


class TestLaw03TheScopeStaysTheSame:
    """However a piece of the work is awaited, the scope stays the same in it (see test_boundaries.py)."""

    @pytest.mark.parametrize("wait", [wait_for, shield, gather, as_completed, task_group, anyio_task_group])
    async def test_it_is_the_same_before_within_and_after(
        self, wait: Callable[[Coroutine[Any, Any, Scope | None]], Awaitable[Scope | None]]
    ) -> None:
        async with scope() as opened:
            assert current_scope() is opened
            assert await wait(read()) is opened
            assert current_scope() is opened
        assert await wait(read()) is None
