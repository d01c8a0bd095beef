"""Laws of ours that SQLAlchemy's own sessions, and contextlib, do not have: what happens there instead."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar, Token

import pytest
from libraries_installed import TaskSession
from sqlalchemy import insert, inspect, select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import (
    AsyncEngine,
    AsyncSession,
    create_async_engine,
)
from sqlalchemy.orm import Session

from entries import Entry, scoped_session, stored
from relay import relay
from watch import out


async def test_a_unit_within_a_unit_is_the_same(engine: AsyncEngine) -> None:
    """Laws 1 and 24: by a scope function, what commits in the same task commits all of it."""
    await scoped_session(engine)
    by_task = TaskSession(engine).Session

    async def within() -> None:
        await by_task.execute(insert(Entry).values(text="within"))
        await by_task.commit()

    await by_task.execute(insert(Entry).values(text="around"))
    await within()
    await by_task.rollback()
    await by_task.remove()
    assert await stored(engine) == {"around", "within"}


async def test_a_context_manager_entered_again() -> None:
    """Law 5: of contextlib's, the error says nothing of the slip."""

    @asynccontextmanager
    async def unit() -> AsyncIterator[None]:
        yield

    manager = unit()
    async with manager:
        pass
    with pytest.raises(AttributeError, match="args"):
        async with manager:
            pass


async def test_a_close_that_fails_replaces_the_exception(engine: AsyncEngine) -> None:
    """Law 10: what went wrong first is at best the ``__context__`` of what is raised."""

    class FailsToClose(Session):
        def close(self) -> None:
            super().close()
            raise OSError("close failed")

    with pytest.raises(OSError, match="close failed"):
        async with AsyncSession(engine, sync_session_class=FailsToClose):
            raise LookupError


async def test_a_shield_is_left_before_the_end(postgres_url: str) -> None:
    """Law 11: the clean-up goes on, but who is cancelled does not wait for it."""

    async def leave() -> None:
        await asyncio.shield(closing)

    async with relay(postgres_url) as line:
        engine = create_async_engine(line.url)
        session = AsyncSession(engine)
        await session.execute(select(1))
        line.go_silent()
        closing = asyncio.create_task(session.close())
        leaving = asyncio.create_task(leave())
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert out(engine) == 1
        line.speak()
        await closing
        await engine.dispose()


async def test_a_close_waits_for_a_silent_server(postgres_url: str) -> None:
    """Law 12: nothing bounds it."""
    async with relay(postgres_url) as line:
        engine = create_async_engine(line.url)
        session = AsyncSession(engine)
        await session.execute(select(1))
        line.go_silent()
        closing = asyncio.create_task(session.close())
        await asyncio.wait([closing], timeout=0.5)
        assert not closing.done()
        line.speak()
        await closing
        await engine.dispose()


def test_a_token_keeps_what_was_set_before() -> None:
    """Law 13: whoever keeps a token keeps the unit around, and all those around that."""

    class Unit:
        token: Token["Unit"]

    current: ContextVar[Unit] = ContextVar("current")
    around, within = Unit(), Unit()
    around.token = current.set(around)
    within.token = current.set(within)
    kept = weakref.ref(around)
    del around
    gc.collect()
    assert kept() is not None


def test_another_loop(postgres_url: str) -> None:
    """Law 15: the driver's error, or asyncio's, speaks of futures and operations, and not of the loop."""
    engine = create_async_engine(postgres_url)
    session = AsyncSession(engine)
    with asyncio.Runner() as its_own, asyncio.Runner() as another:
        its_own.run(session.connection())
        with pytest.raises(RuntimeError, match="attached to a different loop"):
            another.run(session.scalar(select(1)))
        its_own.run(session.invalidate())
        its_own.run(engine.dispose())


async def test_a_fan_out_drains_the_pool(postgres_url: str) -> None:
    """Law 16: each child of a task group holds a connection, however many there are."""
    engine = create_async_engine(postgres_url, pool_size=2, max_overflow=0, pool_timeout=0.2)

    async def child() -> None:
        async with AsyncSession(engine) as session:
            await session.execute(select(1))
            await asyncio.Event().wait()  # a slow call

    with pytest.raises(ExceptionGroup) as raised:
        async with asyncio.TaskGroup() as group:
            for _ in range(3):
                group.create_task(child())
    assert raised.group_contains(PoolTimeoutError)
    await engine.dispose()


async def test_a_failed_child_is_committed(engine: AsyncEngine) -> None:
    """Law 19: on one session, what a child wrote before it failed is its parent's to commit."""
    await scoped_session(engine)

    async def child() -> None:
        await session.execute(insert(Entry).values(text="of the child"))
        raise LookupError

    async with AsyncSession(engine) as session:
        await asyncio.gather(asyncio.create_task(child()), return_exceptions=True)
        await session.commit()
    assert await stored(engine) == {"of the child"}


async def test_a_session_left_while_a_child_uses_it(engine: AsyncEngine) -> None:
    """Law 17: the block does not wait, and the child begins anew on a session that nobody closes again."""

    async def child() -> None:
        await left.wait()
        await session.execute(select(1))

    left = asyncio.Event()
    async with AsyncSession(engine) as session:
        using = asyncio.create_task(child())
        await session.execute(select(1))
    left.set()
    await using
    assert out(engine) == 1
    await session.close()


@pytest.mark.parametrize("end", ["close", "commit", "rollback"])
async def test_an_end_in_the_middle_of_a_unit(end: str, engine: AsyncEngine) -> None:
    """Law 29: each of the three gives the connection back, and each costs something."""
    await scoped_session(engine)
    async with AsyncSession(engine, expire_on_commit=False) as session:
        await session.execute(insert(Entry).values(text="a"))
        await session.commit()
        entry = (await session.scalars(select(Entry))).one()
        await session.execute(insert(Entry).values(text="b"))
        await getattr(session, end)()
        assert out(engine) == 0
        assert inspect(entry).detached == (end == "close")
        assert bool(inspect(entry).expired_attributes) == (end == "rollback")
    assert await stored(engine) == ({"a", "b"} if end == "commit" else {"a"})
