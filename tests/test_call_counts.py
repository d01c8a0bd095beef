"""What a scope and a proxied call cost, as exact counts: a timed assertion is right on one machine only.

Counted are the calls of Python functions of the package itself. A count that has changed breaks no law: see
that the change is worth it by ``python -m benchmarks --only instructions``, and write the new count down.
"""

import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import anyio
import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

import scoped_async
from scoped_async import AsyncScopedSession, create_task_group, scope

# Before 3.12, asyncio's own current_task() is written in Python, and the package has a shorter one.
WITHOUT_CURRENT_TASK = sys.version_info < (3, 12)
PACKAGE = str(Path(scoped_async.__file__).parent)


class Answering(AsyncSession):
    """A session whose operation answers without a database."""

    async def scalar(self, *args: Any, **kwargs: Any) -> Any:
        return None


Session = AsyncScopedSession(async_sessionmaker(class_=Answering))

Act = Callable[[], Awaitable[object]]


async def unused() -> None:
    async with scope():
        pass


async def unused_with_options() -> None:
    async with scope(commit=True):
        pass


@scope()
async def decorated() -> None:
    pass


async def touched() -> None:
    async with scope():
        Session()


async def operation() -> None:
    await Session.scalar(select(1))


async def method() -> None:
    Session.expire_all()


async def attribute() -> None:
    assert Session.autoflush


async def nothing() -> None:
    pass


async def child() -> None:
    async with create_task_group() as group:
        group.start_soon(nothing)


@asynccontextmanager
async def no_scope() -> AsyncIterator[None]:
    yield


async def calls(act: Act) -> int:
    """How many functions of the package ``act`` calls, when all that is made once has been made."""
    await act()
    await act()
    gc.collect()  # what other tests have left is not collected meanwhile
    count = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(PACKAGE)

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        await act()
    finally:
        sys.setprofile(before)
    return count


class TestCallsPerScope:
    """A scope calls exactly this many functions of the package."""

    @pytest.mark.parametrize(
        ("act", "expected"),
        [
            pytest.param(unused, 4, id="unused: made, entered, left, collected"),
            pytest.param(unused_with_options, 4, id="unused, with options"),
            pytest.param(decorated, 5, id="a decorated function"),
            pytest.param(touched, 11, id="session touched, no SQL"),
            pytest.param(child, 14, id="a task group of one child"),
        ],
    )
    async def test_scope(self, act: Act, expected: int) -> None:
        assert await calls(act) == expected


class TestCallsPerAccess:
    """An access through the proxy calls exactly this many functions of the package."""

    @pytest.mark.parametrize(
        ("act", "expected"),
        [
            pytest.param(operation, 1 + WITHOUT_CURRENT_TASK, id="an awaited call"),
            pytest.param(method, 1, id="a sync method"),
            pytest.param(attribute, 1, id="an attribute"),
        ],
    )
    async def test_access(self, act: Act, expected: int) -> None:
        async with scope():
            assert await calls(act) == expected


async def test_counts_see_the_package_only() -> None:
    """anyio's and SQLAlchemy's own calls are not counted: they change with their versions."""

    async def elsewhere() -> None:
        async with no_scope(), anyio.create_task_group() as group:
            group.start_soon(nothing)

    assert await calls(elsewhere) == 0
