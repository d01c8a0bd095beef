"""Laws 8 and 9: where there is no session, because the scope has ended or there is none."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from factory import Factory, connections
from scoped_async import (
    AsyncScopedSession,
    NoScopeError,
    ScopeClosedError,
    ScopedResource,
    current_scope,
    scope,
)

ONE = text("SELECT 1")


@pytest.fixture
def factory(engine: AsyncEngine) -> Factory:
    return Factory(engine)


@pytest.fixture
def Session(factory: Factory) -> AsyncScopedSession[AsyncSession]:
    return AsyncScopedSession(factory)


class TestLaw08AfterItsExitAScopeIsDeadEverywhere:
    """Whoever inherited a scope gets ScopeClosedError after its exit; nothing is revived or checked out."""

    @pytest.fixture(autouse=True)
    def nothing_is_revived(self, factory: Factory, engine: AsyncEngine) -> None:
        """Of the one session that each test makes in the scope."""
        self.factory, self.engine = factory, engine

    def assert_refused(self, touch: Callable[[], object]) -> None:
        made = len(self.factory.made)
        with pytest.raises(ScopeClosedError) as caught:
            touch()
        message = str(caught.value)
        assert "the_scope" in message
        assert "test_where_there_is_none.py:" in message
        assert "Open a scope of your own" in message
        assert len(self.factory.made) == made
        assert connections(self.engine)[1] == 0

    async def test_a_late_child(self, Session: AsyncScopedSession[AsyncSession]) -> None:
        async def late() -> None:
            await over.wait()
            for touch in (
                Session,
                current_scope,
                Session.registry,
                lambda: Session.new,
                lambda: 1 in Session,
            ):
                self.assert_refused(touch)
            for operation in (lambda: Session.execute(ONE), Session.commit, Session.rollback, Session.close):
                self.assert_refused(lambda operation=operation: operation().send(None))  # type: ignore[misc]
            self.assert_refused(Session.begin)
            self.assert_refused(lambda: Session.add(object()))
            self.assert_refused(lambda: current_scope("a dead scope is not none"))

        over = asyncio.Event()
        async with scope(name="the_scope"):
            await Session.execute(ONE)
            task = asyncio.create_task(late())
        over.set()
        await task

    async def test_a_late_child_that_is_the_first_to_touch(
        self, Session: AsyncScopedSession[AsyncSession]
    ) -> None:
        async def late() -> None:
            await over.wait()
            self.assert_refused(lambda: Session.execute(ONE).send(None))
            self.assert_refused(Session)

        over = asyncio.Event()
        async with scope(name="the_scope"):
            task = asyncio.create_task(late())
        over.set()
        await task
        assert self.factory.made == []

    async def test_a_callback(self, Session: AsyncScopedSession[AsyncSession]) -> None:
        def late() -> None:
            try:
                self.assert_refused(Session)
                ran.set_result(None)
            except BaseException as error:
                ran.set_exception(error)

        loop = asyncio.get_running_loop()
        ran: asyncio.Future[None] = loop.create_future()
        async with scope(name="the_scope"):
            Session()
            loop.call_soon(late)
        await ran

    async def test_a_stream(self, Session: AsyncScopedSession[AsyncSession]) -> None:
        async with scope(name="the_scope"):
            stream = await Session.stream(text("SELECT generate_series(1, 10000)"))
            assert (await anext(stream))[0] == 1
        self.assert_refused(lambda: stream.fetchone().send(None))
        self.assert_refused(lambda: anext(stream).__await__().send(None))

    async def test_a_worker_thread(self, Session: AsyncScopedSession[AsyncSession]) -> None:
        def late() -> None:
            over.wait()
            self.assert_refused(Session)
            self.assert_refused(current_scope)

        over = threading.Event()
        async with scope(name="the_scope"):
            Session()
            thread = asyncio.create_task(asyncio.to_thread(late))
            await asyncio.sleep(0)  # let the task hand the function to its thread
        over.set()
        await thread

    async def test_what_was_kept_of_the_scope(self, Session: AsyncScopedSession[AsyncSession]) -> None:
        async with scope(name="the_scope") as kept:
            await Session.execute(ONE)
            transaction = Session.begin_nested()
        self.assert_refused(lambda: kept.commit().send(None))
        self.assert_refused(lambda: kept.rollback().send(None))
        self.assert_refused(lambda: kept.release().send(None))
        self.assert_refused(lambda: kept.after_commit(print))
        self.assert_refused(lambda: kept.after_rollback(print))
        self.assert_refused(lambda: setattr(kept, "rollback_only", True))
        self.assert_refused(lambda: transaction.__aenter__().send(None))

    async def test_it_is_the_dead_scope_that_is_seen_and_not_the_one_around_it(
        self, Session: AsyncScopedSession[AsyncSession]
    ) -> None:
        async def late() -> None:
            await over.wait()
            self.assert_refused(Session)
            async with scope() as own:
                assert await Session.scalar(ONE) == 1
                assert own.parent is outer

        over = asyncio.Event()
        async with scope() as outer:
            async with scope(name="the_scope"):
                task = asyncio.create_task(late())
            over.set()
            await task

    async def test_while_it_is_being_left_others_are_refused_already(
        self, Session: AsyncScopedSession[AsyncSession]
    ) -> None:
        async def late() -> None:
            await closing.wait()
            try:
                self.assert_refused(lambda: Session.execute(ONE).send(None))
            finally:
                refused.set()

        async def close(_: object) -> None:
            closing.set()
            await refused.wait()

        closing, refused = asyncio.Event(), asyncio.Event()
        resource = ScopedResource(object, close=close)
        async with scope(name="the_scope"):
            resource()
            task = asyncio.create_task(late())
        await task


class TestLaw09WithoutAScopeThereIsNoSession:
    """Without a scope: NoScopeError, which says how to open one; never an implicit session."""

    def test_nothing_makes_one(self, Session: AsyncScopedSession[AsyncSession], factory: Factory) -> None:
        touches: list[Callable[[], object]] = [
            Session,
            Session.registry,
            Session.begin,
            Session.expire_all,
            current_scope,
            ScopedResource(object),
            lambda: Session.registry.clear(),
            lambda: Session.new,
            lambda: setattr(Session, "autoflush", False),
            lambda: object() in Session,
            lambda: list(Session),
            lambda: Session.execute(ONE).send(None),
            lambda: Session.stream(ONE).send(None),
            lambda: Session.commit().send(None),
            lambda: Session.remove().send(None),
        ]
        for touch in touches:
            with pytest.raises(NoScopeError, match=r"async with scope\(\)"):
                touch()
        assert Session.registry.has() is False
        assert factory.made == []

    def test_a_default_may_be_had_instead(self) -> None:
        assert current_scope(None) is None
        assert current_scope("none") == "none"

    async def test_after_the_scope_there_is_none_again(
        self, Session: AsyncScopedSession[AsyncSession]
    ) -> None:
        async with scope():
            await Session.execute(ONE)
        with pytest.raises(NoScopeError):
            await Session.execute(ONE)
