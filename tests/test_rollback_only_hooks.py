"""Law 25: `rollback_only` set by a hook of the flush or the commit, which vetoes the commit that runs it."""

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session as SyncSession

from entries import Entry, Log, Sessions, scoped_session, stored, write
from scoped_async import AsyncScopedSession, RollbackOnlyError, ScopedResource, current_scope, scope


def veto(*_: object) -> None:
    current_scope().rollback_only = True


@pytest.fixture(name="Other")
async def other_session(engine: AsyncEngine) -> Sessions:
    """A proxy without hooks, on the same table."""
    return await scoped_session(engine)


@pytest.fixture(name="Session", params=["before_flush", "after_flush", "before_commit"])
def session(request: pytest.FixtureRequest, Other: Sessions, engine: AsyncEngine) -> Sessions:
    """Sessions one of whose hooks vetoes."""
    hooked = type("Hooked", (SyncSession,), {})
    event.listen(hooked, request.param, veto)
    return AsyncScopedSession(async_sessionmaker(engine, sync_session_class=hooked, expire_on_commit=False))


class TestLaw25RollbackOnlySetByAHook:
    """The exit rolls back without an error, an explicit commit raises, and nothing is stored."""

    async def test_at_the_exit(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            log.watch()
            Session.add(Entry(text="vetoed"))
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    @pytest.mark.parametrize("how", ["Session.commit", "scope.commit", "begin"])
    async def test_an_explicit_commit(
        self, how: str, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True) as opened:
            log.watch()
            with pytest.raises(RollbackOnlyError, match="rollback_only was set") as raised:
                if how == "begin":
                    async with Session.begin():
                        Session.add(Entry(text="vetoed"))
                else:
                    Session.add(Entry(text="vetoed"))
                    await (Session if how == "Session.commit" else opened).commit()
            assert raised.value.__cause__ is None
            assert log == ["rolled back"]
        assert await stored(engine) == set()

    async def test_it_can_be_read_there(self, Session: Sessions) -> None:
        seen: list[bool] = []
        resource = ScopedResource(object, commit=lambda _: seen.append(current_scope().rollback_only))
        async with scope(commit=True) as opened:
            resource()
            opened.after_commit(lambda: seen.append(opened.rollback_only))
        assert seen == [False, False]
        async with scope(commit=True) as opened:
            Session.add(Entry(text="vetoed"))
            opened.after_rollback(lambda: seen.append(opened.rollback_only))
        assert seen == [False, False, True]

    async def test_by_a_flush_in_the_body(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            log.watch()
            Session.add(Entry(text="vetoed"))
            await Session.flush()
            Session.add(Entry(text="vetoed too"))
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    async def test_the_other_sessions_of_the_scope_are_rolled_back_too(
        self, Session: Sessions, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            log.watch()
            Session.add(Entry(text="vetoed"))
            await write(Other, "with it")
        assert log == ["rolled back"]
        assert await stored(engine) == set()

    async def test_too_late_for_what_is_committed_already_it_is_an_error(
        self, Session: Sessions, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """A part of the unit is stored, which nobody asked for: that cannot go without a word (law 22)."""
        with pytest.raises(RollbackOnlyError) as raised:
            async with scope(commit=True):
                log.watch()
                await write(Other, "committed before")
                Session.add(Entry(text="vetoed"))
        assert "Already committed" in raised.value.__notes__[0]
        assert log == ["rolled back"]
        assert await stored(engine) == {"committed before"}

    async def test_by_the_commit_hook_of_a_resource(self, Other: Sessions, engine: AsyncEngine) -> None:
        """It comes too late for the resource itself, and in time for what is committed after it."""
        with pytest.raises(RollbackOnlyError):
            async with scope(commit=True):
                ScopedResource(object, commit=veto)()
                await write(Other, "vetoed")
        assert await stored(engine) == set()
