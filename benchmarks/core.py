"""The core operations, each a loop of ``n`` turns, beside the least that would do the same."""

import asyncio
from asyncio import current_task
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import ContextVar, Token, copy_context
from typing import Any

import anyio
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

from scoped_async import AsyncScopedSession, create_task_group, scope

from .database import SELECT, Entry, engine, sessions
from .per_request import ON_DATABASE, WITHOUT_DATABASE

Loop = Callable[[int], Awaitable[None]]

Session = AsyncScopedSession(sessions)
TaskSession = async_scoped_session(sessions, scopefunc=current_task)


class Answering(AsyncSession):
    """A session whose call costs next to nothing, so that what a proxy adds can be seen."""

    async def scalar(self, *args: Any, **kwargs: Any) -> Any:
        return None


answering = async_sessionmaker(engine, class_=Answering)
ProxyOfAnswering = AsyncScopedSession(answering)
TaskProxyOfAnswering = async_scoped_session(answering, scopefunc=current_task)

current: ContextVar[object] = ContextVar("current")


class HandWritten:
    """The floor of any ``async with`` around a ContextVar."""

    token: Token[object]

    async def __aenter__(self) -> "HandWritten":
        self.token = current.set(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        current.reset(self.token)


# -- per scope


async def bare_context_variable(n: int) -> None:
    for _ in range(n):
        token = current.set(n)
        current.get()
        current.reset(token)


async def hand_written_class(n: int) -> None:
    for _ in range(n):
        async with HandWritten():
            pass


async def unused_scope(n: int) -> None:
    for _ in range(n):
        async with scope():
            pass


async def touched_scope(n: int) -> None:
    for _ in range(n):
        async with scope():
            Session()


async def touched_sessionmaker(n: int) -> None:
    for _ in range(n):
        async with sessions():
            pass


async def touched_task_session(n: int) -> None:
    for _ in range(n):
        TaskSession()
        await TaskSession.remove()


async def select_scope(n: int) -> None:
    for _ in range(n):
        async with scope():
            await Session.scalar(SELECT)


async def select_sessionmaker(n: int) -> None:
    for _ in range(n):
        async with sessions() as session:
            await session.scalar(SELECT)


async def insert_scope(n: int) -> None:
    for _ in range(n):
        async with scope(commit=True):
            Session.add(Entry(amount=1))


async def insert_sessionmaker(n: int) -> None:
    for _ in range(n):
        async with sessions.begin() as session:
            session.add(Entry(amount=1))


# -- per access


async def call_direct(n: int) -> None:
    async with answering() as session:
        for _ in range(n):
            await session.scalar(SELECT)


async def call_scope(n: int) -> None:
    async with scope():
        for _ in range(n):
            await ProxyOfAnswering.scalar(SELECT)


async def call_task_session(n: int) -> None:
    for _ in range(n):
        await TaskProxyOfAnswering.scalar(SELECT)
    await TaskProxyOfAnswering.remove()


async def method_direct(n: int) -> None:
    async with sessions() as session:
        for _ in range(n):
            session.expire_all()


async def method_scope(n: int) -> None:
    async with scope():
        for _ in range(n):
            Session.expire_all()


async def method_task_session(n: int) -> None:
    for _ in range(n):
        TaskSession.expire_all()
    await TaskSession.remove()


async def attribute_direct(n: int) -> None:
    async with sessions() as session:
        for _ in range(n):
            session.autoflush  # noqa: B018


async def attribute_scope(n: int) -> None:
    async with scope():
        for _ in range(n):
            Session.autoflush  # noqa: B018


async def attribute_task_session(n: int) -> None:
    for _ in range(n):
        TaskSession.autoflush  # noqa: B018
    await TaskSession.remove()


# -- per task


async def nothing() -> None:
    """What a child does."""


async def child_plain(n: int) -> None:
    async with anyio.create_task_group() as group:
        for _ in range(n):
            group.start_soon(nothing)


async def child_scope(n: int) -> None:
    async with create_task_group() as group:
        for _ in range(n):
            group.start_soon(nothing)


async def nothing_at_once() -> None:
    await asyncio.sleep(0)


async def unused_at_once() -> None:
    async with scope():
        await asyncio.sleep(0)


async def touched_at_once() -> None:
    async with scope():
        Session()
        await asyncio.sleep(0)


async def hand_written_at_once() -> None:
    async with HandWritten():
        await asyncio.sleep(0)


def at_once(function: Callable[[], Coroutine[Any, Any, None]]) -> Loop:
    """``n`` calls that are in the middle of ``function`` at the same moment, each in its own Context.

    They are no tasks, whose own cost would hide what is asked for.
    """

    async def loop(n: int) -> None:
        calls = [(copy_context().run, function()) for _ in range(n)]
        for run, call in calls:
            run(call.send, None)
        for run, call in calls:
            with suppress(StopIteration):
                run(call.send, None)

    return loop


CORE: dict[str, Loop] = {
    "bare ContextVar set, get, reset": bare_context_variable,
    "unused: hand-written class": hand_written_class,
    "unused: scope": unused_scope,
    "touched: sessionmaker": touched_sessionmaker,
    "touched: async_scoped_session": touched_task_session,
    "touched: scope": touched_scope,
    "call: direct": call_direct,
    "call: async_scoped_session": call_task_session,
    "call: scope": call_scope,
    "method: direct": method_direct,
    "method: async_scoped_session": method_task_session,
    "method: scope": method_scope,
    "attribute: direct": attribute_direct,
    "attribute: async_scoped_session": attribute_task_session,
    "attribute: scope": attribute_scope,
    "child: anyio task group": child_plain,
    "child: create_task_group": child_scope,
    **WITHOUT_DATABASE,
}
"""Those that need no database."""

DATABASE: dict[str, Loop] = {
    "select: sessionmaker": select_sessionmaker,
    "select: scope": select_scope,
    "insert: sessionmaker.begin()": insert_sessionmaker,
    "insert: scope(commit=True)": insert_scope,
    **ON_DATABASE,
}
"""Those that run on PostgreSQL."""

AT_ONCE: dict[str, Loop] = {
    "at once: nothing": at_once(nothing_at_once),
    "at once: hand-written class": at_once(hand_written_at_once),
    "at once: scope": at_once(unused_at_once),
}
"""Those of which many run at the same moment."""

ALL = CORE | DATABASE
