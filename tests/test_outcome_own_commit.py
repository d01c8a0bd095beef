"""Sessions whose class has a commit of its own, which writes before it calls SQLAlchemy's."""

from typing import Any

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session as SyncSession

from entries import Entry, Log, Sessions, break_the_commit, stored, write
from scoped_async import AsyncScopedSession, RollbackOnlyError, scope


class AddsARow(AsyncSession):
    async def commit(self) -> None:
        self.add(Entry(text="audit"))
        await super().commit()


class SendsAStatement(AsyncSession):
    async def commit(self) -> None:
        await write(self, "audit")
        await super().commit()


class Swallows(AsyncSession):
    async def commit(self) -> None:
        try:
            await super().commit()
        except IntegrityError:
            await self.rollback()


class CommitsTwiceAndFails(AsyncSession):
    async def commit(self) -> None:
        await super().commit()
        await write(self, "two")
        await super().commit()
        raise LookupError


class SyncAddsARow(SyncSession):
    def commit(self) -> None:
        self.add(Entry(text="audit"))
        super().commit()


class SyncSendsAStatement(SyncSession):
    def commit(self) -> None:
        self.execute(insert(Entry).values(text="audit"))
        super().commit()


class TestLaw20WhatTheCommitOfAClassWrites:
    """It is committed with the rest, and what stands against a commit stands against this one."""

    @pytest.fixture(name="Session", params=[AddsARow, SendsAStatement, SyncAddsARow, SyncSendsAStatement])
    def session(self, Session: Sessions, engine: AsyncEngine, request: pytest.FixtureRequest) -> Sessions:
        which = "class_" if issubclass(request.param, AsyncSession) else "sync_session_class"
        options: dict[str, Any] = {which: request.param}
        return AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False, **options))

    @pytest.mark.parametrize("how", ["exit", "Session.commit", "scope.commit"])
    @pytest.mark.parametrize("pending", [False, True])
    async def test_it_is_stored(
        self, how: str, pending: bool, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        expected = {"one", "audit", *(["pending"] if pending else [])}
        async with scope(commit=how == "exit") as opened:
            log.watch()
            await write(Session, "one")
            if pending:
                Session.add(Entry(text="pending"))
            if how != "exit":
                await (Session if how == "Session.commit" else opened).commit()
        assert await stored(engine) == expected
        assert log == ["committed"]

    async def test_with_nothing_else_to_commit(self, Session: Sessions, engine: AsyncEngine) -> None:
        async with scope():
            await Session.commit()
            await Session.commit()
        async with engine.connect() as connection:
            assert list(await connection.scalars(select(Entry.text))) == ["audit", "audit"]

    async def test_what_is_rolled_back_by_hand_after_it_is_not(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            await write(Session, "one")
            await Session.commit()
            await write(Session, "lost")
            await Session().rollback()
        assert await stored(engine) == {"one", "audit"}

    async def test_nothing_is_when_a_failure_was_swallowed(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        with pytest.raises((RollbackOnlyError, DBAPIError), match=r"would be a rollback|is aborted"):
            async with scope(commit=True):
                log.watch()
                await write(Session, "one")
                with pytest.raises(DBAPIError):
                    await Session.execute(text("SELECT 1 / 0"))
        assert await stored(engine) == set()
        assert log == ["rolled back"]

    async def test_it_swallows_a_commit_that_failed(
        self, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        Session = AsyncScopedSession(async_sessionmaker(engine, class_=Swallows))
        async with scope(commit=True):
            await break_the_commit(Session)
            log.watch()
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    async def test_it_commits_twice_and_fails_then(
        self, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        Session = AsyncScopedSession(async_sessionmaker(engine, class_=CommitsTwiceAndFails))
        with pytest.raises(LookupError) as raised:
            async with scope(commit=True):
                await write(Session, "one")
                log.watch()
        assert log == ["committed"]
        assert "was done" in raised.value.__notes__[0]
        assert await stored(engine) == {"one", "two"}

    async def test_a_savepoint_that_is_open_goes_with_it(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            await write(Session, "one")
            await Session.begin_nested()
            await write(Session, "two")
        assert await stored(engine) == {"one", "two", "audit"}
