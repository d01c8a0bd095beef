"""Leaving a scope where that cannot be done, or where its own close fails in place."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session as SyncSession

from scoped_async import (
    AsyncScopedSession,
    ForeignThreadError,
    Scope,
    ScopedResource,
    ScopeError,
    current_scope,
    scope,
)


class TestLaw05AScopeIsLeftOnce:
    """To leave one that was not entered, or is left or being left already, is a ScopeError."""

    async def leave(self, opened: Any) -> None:
        with pytest.raises(ScopeError, match="was not entered, or it is left already"):
            await opened.__aexit__(None, None, None)

    async def test_not_entered(self) -> None:
        await self.leave(scope())

    @pytest.mark.parametrize("touched", [False, True])
    async def test_left_already(self, touched: bool) -> None:
        async with scope() as outer:
            async with scope() as inner:
                if touched:
                    ScopedResource(object)()
            await self.leave(inner)
            assert current_scope() is outer
        await self.leave(outer)

    async def test_being_left(self) -> None:
        opened = scope(commit=True)
        async with opened as current:
            current.after_commit(self.leave, opened)
        assert current.closed


class TestLaw15LeavingInAnotherLoop:
    """To leave one in another event loop is a ForeignThreadError, and its connections are terminated."""

    def test_with_a_session(self, postgres_url: str) -> None:
        async def enter() -> None:
            await opened.__aenter__()
            await Session.execute(text("SELECT 1"))

        async def leave() -> None:
            await opened.__aexit__(None, None, None)

        async def works() -> int:
            async with scope():
                return int(await Session.scalar(text("SELECT 1")) or 0)

        engine = create_async_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=5)
        Session = AsyncScopedSession(async_sessionmaker(engine))
        opened = scope()
        with asyncio.Runner() as its_own, asyncio.Runner() as another:
            its_own.run(enter())
            with pytest.raises(ForeignThreadError, match="Leaving the scope"):
                another.run(leave())
            assert isinstance(opened, Scope)
            assert opened.closed
            assert its_own.run(works()) == 1
            its_own.run(engine.dispose())


class FailsToClose(SyncSession):
    """Once only: SQLAlchemy keeps it among those that a ``close_all()`` of a later test closes."""

    failed = False

    def close(self) -> None:
        super().close()
        if not self.failed:
            self.failed = True
            raise OSError("close failed")


class TestLaw10ACloseThatFailsInPlace:
    """Also where no connection is held, and nothing needs to be awaited."""

    @pytest.mark.parametrize("with_callback", [False, True])
    async def test_it_is_raised_and_skips_no_other(
        self, with_callback: bool, sqlite_engine: AsyncEngine
    ) -> None:
        closed: list[str] = []
        one, other = (
            AsyncScopedSession(async_sessionmaker(sqlite_engine, sync_session_class=FailsToClose))
            for _ in range(2)
        )
        with pytest.raises(ExceptionGroup) as raised:
            async with scope() as opened:
                if with_callback:
                    opened.after_commit(closed.append, "committed")
                one()
                other()
        assert [str(error) for error in raised.value.exceptions] == ["close failed"] * 2
        assert closed == (["committed"] if with_callback else [])
        assert current_scope(None) is None
