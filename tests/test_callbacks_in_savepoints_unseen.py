"""Law 23: savepoints that are set or ended by another's hand than the proxy's."""

from collections.abc import Awaitable, Callable
from typing import Literal

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSessionTransaction, async_sessionmaker
from sqlalchemy.orm import Session as SyncSession
from sqlalchemy.orm import SessionTransaction

from entries import Entry, Log, Sessions, stored, write
from scoped_async import AsyncScopedSession, scope


def innermost(session: SyncSession) -> SessionTransaction:
    transaction = session.get_nested_transaction()
    assert transaction is not None
    return transaction


async def by_run_sync(Session: Sessions) -> None:
    await Session.run_sync(lambda session: innermost(session).rollback())


async def by_a_close_in_run_sync(Session: Sessions) -> None:
    await Session.run_sync(lambda session: innermost(session).close())


def its_transaction(Session: Sessions) -> AsyncSessionTransaction:
    transaction = Session.get_nested_transaction()
    assert transaction is not None
    return transaction


async def by_its_transaction(Session: Sessions) -> None:
    await its_transaction(Session).rollback()


async def release_by_run_sync(Session: Sessions) -> None:
    await Session.run_sync(lambda session: innermost(session).commit())


async def release_by_its_transaction(Session: Sessions) -> None:
    await its_transaction(Session).commit()


async def by_the_proxy(Session: Sessions) -> None:
    await Session.begin_nested()


async def by_the_session_itself(Session: Sessions) -> None:
    await Session().begin_nested()


async def set_by_run_sync(Session: Sessions) -> None:
    await Session.run_sync(lambda session: session.begin_nested())


Act = Callable[[Sessions], Awaitable[None]]
SETS = pytest.mark.parametrize("set_one", [by_the_proxy, by_the_session_itself, set_by_run_sync])
LOSSES = pytest.mark.parametrize("lose", [by_run_sync, by_a_close_in_run_sync, by_its_transaction])
RELEASES = pytest.mark.parametrize("release", [release_by_run_sync, release_by_its_transaction])


class TestLaw23SavepointsUnseen:
    """Callbacks follow the fate of the savepoint they were registered in, whoever sets or ends it."""

    @SETS
    @LOSSES
    async def test_rolled_back(
        self, set_one: Act, lose: Act, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            log.watch("outer")
            await set_one(Session)
            await write(Session, "lost")
            log.watch("inner")
            await lose(Session)
            log.watch("after")
        assert sorted(log) == ["after committed", "inner rolled back", "outer committed"]
        assert await stored(engine) == {"kept"}

    @SETS
    @RELEASES
    async def test_released(
        self, set_one: Act, release: Act, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        for commit in (True, False):
            async with scope(commit=commit):
                await write(Session, "one")
                await set_one(Session)
                log.watch("inner")
                await release(Session)
                log.watch("after")
            fate = "committed" if commit else "rolled back"
            assert log == [f"inner {fate}", f"after {fate}"]
            log.clear()

    @SETS
    @LOSSES
    async def test_one_released_into_another_that_is_rolled_back(
        self, set_one: Act, lose: Act, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            await set_one(Session)
            await set_one(Session)
            await write(Session, "lost")
            log.watch("inner")
            await release_by_run_sync(Session)
            log.watch("middle")
            await lose(Session)
            log.watch("outer")
        assert log == ["inner rolled back", "middle rolled back", "outer committed"]
        assert await stored(engine) == {"kept"}

    @pytest.mark.parametrize("set_one", [by_the_session_itself, set_by_run_sync])
    async def test_one_of_ours_within_it(
        self, set_one: Act, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            await set_one(Session)
            async with Session.begin_nested():
                await write(Session, "lost")
                log.watch("inner")
            await by_run_sync(Session)
            log.watch("outer")
        assert log == ["inner rolled back", "outer committed"]
        assert await stored(engine) == {"kept"}

    @LOSSES
    @pytest.mark.parametrize("how", ["nested", "begin_nested"])
    async def test_the_block_whose_savepoint_is_gone_loses_no_more(
        self, how: str, lose: Act, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            async with scope(propagation="nested") if how == "nested" else Session.begin_nested():
                await write(Session, "lost")
                log.watch("inner")
                await lose(Session)
                log.watch("after")
            await write(Session, "kept too")
            log.watch("outer")
        assert log == ["inner rolled back", "after committed", "outer committed"]
        assert await stored(engine) == {"kept", "kept too"}

    async def test_of_two_sessions_that_take_no_turns(
        self, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        Other = AsyncScopedSession(async_sessionmaker(engine))
        async with scope(commit=True):
            first, second = await Session().begin_nested(), await Other().begin_nested()
            await write(Session, "kept")
            await write(Other, "lost")
            log.watch("inner")
            await first.commit()
            log.watch("still inner")
            await second.rollback()
            log.watch("outer")
        assert log == ["inner rolled back", "still inner rolled back", "outer committed"]
        assert await stored(engine) == {"kept"}

    @pytest.mark.parametrize("how", ["nested", "begin_nested"])
    @pytest.mark.parametrize("end", ["rollback", "remove"])
    async def test_another_session_ends_within_it(
        self, how: str, end: str, Session: Sessions, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            with pytest.raises(LookupError):
                async with scope(propagation="nested") if how == "nested" else Session.begin_nested():
                    await write(Other, "lost")
                    log.watch("before")
                    await getattr(Other() if how == "nested" and end == "rollback" else Other, end)()
                    await write(Session, "lost")
                    log.watch("after")
                    raise LookupError
        assert log == ["before rolled back", "after rolled back"]
        assert await stored(engine) == {"kept"}

    async def test_one_session_of_a_block_is_undone_by_hand(
        self, Session: Sessions, Other: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "one")
            await write(Other, "other")
            async with scope(propagation="nested"):
                await write(Session, "kept")
                await write(Other, "lost")
                log.watch()
                await release_by_run_sync(Session)
                await by_run_sync(Other)
        assert log == ["rolled back"], "not all of the work was committed"
        assert await stored(engine) == {"one", "other", "kept"}

    @pytest.mark.parametrize("propagation", ["join", "nested"])
    async def test_a_hook_of_the_commit_or_the_release_sets_one(
        self, propagation: Literal["join", "nested"], Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        def undo(session: SyncSession) -> None:
            if not log:
                log.append("the hook")
                savepoint = session.begin_nested()
                log.watch("inner")
                savepoint.rollback()

        async with scope(commit=True):
            await write(Session, "kept")
            event.listen(Session().sync_session, "before_commit", undo)
            async with scope(propagation=propagation):
                log.watch("outer")
                await write(Session, "kept too")
        assert sorted(log) == ["inner rolled back", "outer committed", "the hook"]
        assert await stored(engine) == {"kept", "kept too"}

    async def test_all_within_one_run_sync(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        def work(session: SyncSession) -> None:
            for text, keep in (("kept", True), ("lost", False)):
                savepoint = session.begin_nested()
                session.add(Entry(text=text))
                session.flush()
                log.watch(text)
                (savepoint.commit if keep else savepoint.rollback)()

        async with scope(commit=True):
            await Session.run_sync(work)
        assert log == ["kept committed", "lost rolled back"]
        assert await stored(engine) == {"kept"}
