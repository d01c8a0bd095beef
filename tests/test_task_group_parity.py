"""create_task_group() is a task group of anyio to whoever knows that."""

import asyncio
import contextvars
import inspect
from collections.abc import AsyncIterator
from typing import Any, assert_type

import anyio
import anyio.abc
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import Sessions, stored, write
from scoped_async import (
    Scope,
    create_task_group,
    current_scope,
    scope,
)


class TestLaw16WhoeverKnowsAnyiosGroupKnowsOurs:
    """start_soon, start, create_task, cancel and cancel_scope take and return what anyio's do."""

    async def test_it_is_a_task_group_of_anyio_with_the_same_parameters(self) -> None:
        ours, theirs = create_task_group(), anyio.create_task_group()
        assert isinstance(ours, anyio.abc.TaskGroup)
        for name in ("start_soon", "start", "create_task", "cancel"):
            our_parameters = inspect.signature(getattr(ours, name)).parameters
            their_parameters = inspect.signature(getattr(theirs, name)).parameters
            assert [(each.name, each.kind, each.default) for each in our_parameters.values()] == [
                (each.name, each.kind, each.default) for each in their_parameters.values()
            ]

    async def test_the_handles_are_anyios_and_so_are_the_names_of_the_tasks(self) -> None:
        async def add(one: int, other: int) -> int:
            return one + other

        async def serve(*, task_status: anyio.abc.TaskStatus[int]) -> str:
            task_status.started(7)
            task = asyncio.current_task()
            assert task is not None
            return task.get_name()

        async def names(tg: anyio.abc.TaskGroup) -> list[str]:
            found: list[str] = []
            async with tg:
                handle = tg.start_soon(add, 1, 2)
                assert_type(handle, anyio.TaskHandle[int])
                assert await handle == 3
                coroutine = tg.create_task(add(1, 2))
                assert_type(await coroutine, int)
                assert coroutine.name.endswith(add.__qualname__)
                named = tg.create_task(add(1, 2), name="mine"), tg.start_soon(add, 1, 2, name=8)
                served = await tg.start(serve, return_handle=True)
                assert_type(served, anyio.TaskHandle[str, Any])
                assert await tg.start(serve, name="server") == 7
                assert {type(each) for each in (handle, coroutine, *named, served)} == {anyio.TaskHandle}
                found.extend(each.name for each in (handle, *named, served))
                found.append(await served)
            return found

        assert await names(create_task_group()) == await names(anyio.create_task_group())

    async def test_whatever_can_be_awaited_as_a_coroutine_is_one(self) -> None:
        async def numbers() -> AsyncIterator[int]:
            assert current_scope().parent is outer or tg is theirs
            yield 7

        theirs = anyio.create_task_group()
        for tg in (create_task_group(), theirs):
            async with scope() as outer, tg:
                assert await tg.create_task(anext(numbers())) == 7  # type: ignore[arg-type]

    async def test_a_handle_cancels_its_child_alone(self, Session: Sessions, engine: AsyncEngine) -> None:
        async def wait_after(name: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            await write(Session, name)
            task_status.started()
            await anyio.sleep_forever()

        async with create_task_group(commit=True) as tg:
            handle = await tg.start(wait_after, "cancelled", return_handle=True)
            handle.cancel()
            await handle.wait()
            assert handle.status is anyio.TaskHandle.Status.CANCELLED
            tg.start_soon(write, Session, "kept")
        assert await stored(engine) == {"kept"}

    async def test_a_context_may_be_given_and_says_which_scope_is_the_parent(self) -> None:
        outside = contextvars.copy_context()

        async def parent() -> Scope | None:
            return current_scope().parent

        async with scope(), create_task_group() as tg:
            assert await tg.create_task(parent(), context=outside) is None

    @pytest.mark.parametrize("make", [anyio.create_task_group, create_task_group])
    async def test_misuse_is_refused_as_anyio_does(self, make: Any) -> None:
        async def child() -> None: ...

        def no_coroutine(**_: object) -> int:
            return 1

        tg: anyio.abc.TaskGroup = make()
        with pytest.raises(RuntimeError, match="not active"):
            tg.create_task(child())
        async with tg:
            with pytest.raises(TypeError, match="expected a coroutine, got int"):
                tg.create_task(1)  # type: ignore[arg-type]
            with pytest.raises(TypeError, match=r"no_coroutine\(\) to return a coroutine"):
                await tg.start(no_coroutine)  # type: ignore[arg-type]
            with pytest.raises(RuntimeError, match=r"without calling task_status.started\(\)"):
                await tg.start(lambda *, task_status: child())
        with pytest.raises(RuntimeError, match="not active"):
            tg.start_soon(child)

    async def test_it_is_left_with_the_exception_of_its_body_in_a_group(self) -> None:
        with pytest.raises(ExceptionGroup) as raised:
            async with create_task_group():
                raise LookupError("the body's")
        assert str(raised.value.exceptions[0]) == "the body's"
