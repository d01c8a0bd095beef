"""The hooks of a commit: SQLAlchemy's events, a session's own commit, and those of a ScopedResource."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session as SyncSession
from sqlalchemy.pool import QueuePool

from entries import Entry, Log, Sessions, scoped_session, stored, write
from scoped_async import AsyncScopedSession, ScopedResource, ScopeError, current_scope, is_retryable, scope


@pytest.fixture
def hooked() -> type[SyncSession]:
    """A session class of the test's own to listen to."""
    return type("Hooked", (SyncSession,), {})


@pytest.fixture(name="Other")
async def other_session(engine: AsyncEngine) -> Sessions:
    """A proxy without hooks, on the same table."""
    return await scoped_session(engine)


@pytest.fixture(name="Session")
def session(Other: Sessions, hooked: type[SyncSession], engine: AsyncEngine) -> Sessions:
    return AsyncScopedSession(async_sessionmaker(engine, sync_session_class=hooked, expire_on_commit=False))


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


BEFORE = ["before_flush", "after_flush", "before_commit"]
"""The events of a commit before its COMMIT is sent."""


class TestLaw22WhatTheHooksOfACommitWrite:
    """What a hook of the exit's commit writes by another session of the scope is committed with the rest."""

    @pytest.fixture(params=[*BEFORE, "commit hook"])
    def audited(self, request: pytest.FixtureRequest, Other: Sessions, hooked: type[SyncSession]) -> Any:
        """Let the commit write into the other session; returns what touches what has the hook."""

        def audit(*_: object) -> None:
            Other.add(Entry(text="audit"))

        if request.param == "commit hook":
            return ScopedResource(object, commit=audit)
        event.listen(hooked, request.param, audit)
        return lambda: None

    async def test_by_a_session_that_nothing_has_touched_before(
        self, audited: Callable[[], object], Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            log.watch()
            audited()
            Session.add(Entry(text="order"))
        assert await stored(engine) == {"order", "audit"}
        assert log == ["committed"]
        assert checked_out(engine) == 0

    async def test_by_a_session_whose_turn_was_before(
        self, audited: Callable[[], object], Session: Sessions, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            log.watch()
            await write(Other, "first")
            audited()
            Session.add(Entry(text="order"))
        assert await stored(engine) == {"first", "order", "audit"}
        assert log == ["committed"]

    async def test_by_a_session_that_was_used_and_is_in_no_transaction(
        self, audited: Callable[[], object], Session: Sessions, Other: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            await write(Other, "by hand")
            await Other.commit()
            audited()
            Session.add(Entry(text="order"))
        assert await stored(engine) == {"by hand", "order", "audit"}

    async def test_without_a_commit_asked_for_nothing_of_it_is_stored(
        self, audited: Callable[[], object], Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope():
            log.watch()
            audited()
            Session.add(Entry(text="order"))
            await Session.flush()
        assert await stored(engine) == set()
        assert log == ["rolled back"]

    async def test_hooks_each_of_which_touches_the_next(self, log: Log) -> None:
        committed: list[int] = []

        def link(number: int) -> ScopedResource[int]:
            def touch_the_next(number: int) -> None:
                committed.append(number)
                if number:
                    links[number - 1]()

            return ScopedResource(lambda: number, commit=touch_the_next)

        links = [link(number) for number in range(50)]
        async with scope(commit=True):
            log.watch()
            links[-1]()
        assert committed == [*reversed(range(50))]
        assert log == ["committed"]

    async def test_hooks_that_put_each_other_in_a_transaction_for_ever(self, log: Log) -> None:
        undone: list[str] = []
        one: ScopedResource[str]
        other: ScopedResource[str]
        one = ScopedResource(lambda: "one", commit=lambda _: other(), rollback=undone.append)
        other = ScopedResource(lambda: "other", commit=lambda _: one(), rollback=undone.append)
        with pytest.raises(ScopeError, match=r"hooks of commits.*Let a hook write by") as raised:
            async with scope(commit=True):
                log.watch()
                one()
        assert not is_retryable(raised.value), "some of it is committed"
        assert log == ["rolled back"]
        assert len(undone) == 1, "what the last commit put in a transaction is rolled back"
        assert current_scope(None) is None


class CommitsAndNotifies(AsyncSession):
    """One whose own commit does more, and fails in that."""

    async def commit(self) -> None:
        await super().commit()
        raise OSError("the broker is down")


def fail(_: SyncSession) -> None:
    raise OSError("the broker is down")


class TestLaw20WhatIsRaisedAfterTheCommit:
    """The COMMIT was done, and what came after it has raised: stored, called back as such, and said so."""

    @pytest.fixture(params=["a listener of after_commit", "an override of commit"])
    def Failing(
        self,
        request: pytest.FixtureRequest,
        Session: Sessions,
        hooked: type[SyncSession],
        engine: AsyncEngine,
    ) -> Sessions:
        if request.param == "an override of commit":
            return AsyncScopedSession(
                async_sessionmaker(engine, class_=CommitsAndNotifies, expire_on_commit=False)
            )
        event.listen(hooked, "after_commit", fail)
        return Session

    async def test_at_the_exit(self, Failing: Sessions, engine: AsyncEngine, log: Log) -> None:
        with pytest.raises(OSError, match="the broker is down") as raised:
            async with scope(commit=True):
                log.watch()
                await write(Failing, "stored")
        assert await stored(engine) == {"stored"}
        assert log == ["committed"]
        assert checked_out(engine) == 0
        (note,) = raised.value.__notes__
        assert "COMMIT of the session" in note
        assert "was done" in note
        assert not is_retryable(raised.value)

    @pytest.mark.parametrize("how", ["Session.commit", "scope.commit"])
    async def test_in_the_body_and_the_scope_goes_on(
        self, how: str, Failing: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope() as opened:
            log.watch()
            await write(Failing, "stored")
            with pytest.raises(OSError, match="the broker is down") as raised:
                await (Failing if how == "Session.commit" else opened).commit()
            assert log == ["committed"]
            assert checked_out(engine) == 0
            log.watch("next")
            await write(Failing, "not asked to be kept")
        assert await stored(engine) == {"stored"}
        assert log == ["committed", "next rolled back"]
        assert "was done" in raised.value.__notes__[0]
        assert "unknown" not in raised.value.__notes__[0]

    async def test_by_the_end_of_begin(
        self, Session: Sessions, hooked: type[SyncSession], engine: AsyncEngine, log: Log
    ) -> None:
        event.listen(hooked, "after_commit", fail)
        async with scope():
            with pytest.raises(OSError, match="the broker is down") as raised:
                async with Session.begin():
                    log.watch()
                    await write(Session, "stored")
            assert log == ["committed"]
            assert checked_out(engine) == 0
        assert await stored(engine) == {"stored"}
        assert "was done" in raised.value.__notes__[0]

    async def test_sessions_after_it_are_rolled_back(
        self, Failing: Sessions, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """As after any commit that fails (law 22): not all of the work was committed."""
        with pytest.raises(OSError, match="the broker is down"):
            async with scope(commit=True):
                log.watch()
                await write(Failing, "stored")
                await write(Other, "lost")
        assert await stored(engine) == {"stored"}
        assert log == ["rolled back"]
        assert checked_out(engine) == 0


class TestLaw20WhatIsRaisedBeforeTheCommit:
    """A hook that raises before the COMMIT is sent: rolled back, and nothing is unknown."""

    @pytest.mark.parametrize("error", [ConnectionError, TimeoutError, OSError, ValueError])
    @pytest.mark.parametrize("hook", BEFORE)
    async def test_at_the_exit(
        self,
        hook: str,
        error: type[Exception],
        Session: Sessions,
        hooked: type[SyncSession],
        engine: AsyncEngine,
        log: Log,
    ) -> None:
        @event.listens_for(hooked, hook)
        def fail(*_: object) -> None:
            raise error("the broker is down")

        with pytest.raises(error, match="the broker is down") as raised:
            async with scope(commit=True):
                log.watch()
                Session.add(Entry(text="lost"))
        assert not hasattr(raised.value, "__notes__")
        assert log == ["rolled back"]
        assert await stored(engine) == set()
        assert checked_out(engine) == 0
