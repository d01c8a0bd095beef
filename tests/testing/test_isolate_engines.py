"""isolate(): the engines that it is given are those that the sessions work on, in one event loop."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from notes import Note, read, sessions_of, stored, write
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session

from scoped_async import AsyncScopedSession, ScopeError, scope
from scoped_async.testing import isolate

Proxy = AsyncScopedSession[AsyncSession]


class TestOtherEngines:
    """What a session does on an engine that was not given would stay, so it is refused."""

    async def test_a_session_that_chooses_its_engine(
        self, session: Proxy, notes: AsyncEngine, tmp_path: Path
    ) -> None:
        other = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'other.db'}")
        async with other.begin() as connection:
            await connection.run_sync(Note.metadata.create_all)

        class Routing(Session):
            def get_bind(self, *args: Any, **kwargs: Any) -> Any:
                return other.sync_engine

        routed = AsyncScopedSession(async_sessionmaker(notes, sync_session_class=Routing))
        async with isolate(routed, notes):
            with pytest.raises(ScopeError, match=r"was not given Engine\(sqlite.*other\.db.*Give it too"):
                await write(routed, 1)
        async with isolate((routed, notes), (routed, other)):
            await write(routed, 1)
            assert await read(routed) == [1]
        assert await stored(other) == 0
        await other.dispose()

    async def test_a_session_of_another_engine_than_the_one_given(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        """Else the test would run on another database than the application, and say nothing."""
        other = create_async_engine("postgresql+asyncpg://nobody@nowhere.invalid/")
        async with isolate(session, notes):
            session.configure(bind=other)
            with pytest.raises(ScopeError, match=r"not given Engine.*nowhere.*configure\(bind=engine\)"):
                await write(session, 1)
            async with scope():
                with pytest.raises(ScopeError, match=r"not given Engine.*nowhere"):
                    await session(bind=other).connection()
            session.configure(bind=notes)
            await write(session, 1)
            assert await read(session) == [1]
        await other.dispose()

    async def test_whatever_the_order_in_which_several_are_given(
        self, postgres_notes: AsyncEngine, sqlite_notes: AsyncEngine
    ) -> None:
        session = sessions_of(postgres_notes)
        async with isolate((session, sqlite_notes), (session, postgres_notes)), scope():
            assert session.get_bind().engine is postgres_notes.sync_engine


class TestAnotherEventLoop:
    """The connection belongs to the loop that isolate() is entered in; from another its use would crash."""

    async def test_a_scope_there_is_refused(self, session: Proxy, notes: AsyncEngine) -> None:
        """As that of an application that a test client runs in a thread of its own."""
        async with isolate(session, notes):
            with pytest.raises(ScopeError, match=r"the scope write, .* runs in another event loop.*clone_da"):
                await asyncio.to_thread(asyncio.run, write(session, 1))
            await write(session, 2)
            assert await read(session) == [2]
        assert await stored(notes) == 0

    async def test_so_is_another_isolate(self, session: Proxy, notes: AsyncEngine) -> None:
        async def nest() -> None:
            async with isolate(session, notes):
                pass

        async with isolate(session, notes):
            with pytest.raises(ScopeError, match=r"isolate\(\) within it runs in another event loop"):
                await asyncio.to_thread(asyncio.run, nest())
            await write(session, 1)
        assert await stored(notes) == 0


class TestWhatIsGiven:
    """Pairs of a proxy and its engine, at least one: else nothing would be rolled back."""

    def test_anything_else_is_refused_at_the_call(self, session: Proxy, notes: AsyncEngine) -> None:
        wrong: list[list[Any]] = [
            [],
            [session],
            [notes, session],
            [session, notes.sync_engine],
            [session, notes, session],
            [(session, notes), (session,)],
            [(notes, session)],
            [[]],
            [session.session_factory, notes],
        ]
        for given in wrong:
            with pytest.raises(TypeError, match=r"isolate\(\) takes .*`isolate\(Session, engine\)`, .* not"):
                isolate(*given)
