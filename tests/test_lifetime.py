"""Laws 6 and 7: when a session is made, and how many."""

import asyncio

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from factory import Factory, connections
from scoped_async import (
    AsyncScopedSession,
    ScopedResource,
    scope,
)

ONE = text("SELECT 1")


@pytest.fixture
def factory(engine: AsyncEngine) -> Factory:
    return Factory(engine)


@pytest.fixture
def Session(factory: Factory) -> AsyncScopedSession[AsyncSession]:
    return AsyncScopedSession(factory)


class TestLaw06NothingIsCreatedUntilItIsTouched:
    """Nothing is created until it is touched, and a scope that touched nothing closes nothing."""

    @pytest.mark.parametrize("commit", [False, True])
    async def test_a_scope_that_touches_nothing_makes_nothing(
        self, commit: bool, Session: AsyncScopedSession[AsyncSession], factory: Factory, engine: AsyncEngine
    ) -> None:
        closed: list[object] = []
        resource = ScopedResource(object, commit=closed.append, rollback=closed.append, close=closed.append)
        async with scope(commit=commit):
            bound_late = Session.add
            assert not Session.registry.has()
            assert repr(Session)
            assert repr(resource)
        assert callable(bound_late)
        assert factory.made == closed == []
        assert connections(engine) == (0, 0)

    async def test_such_a_scope_awaits_nothing_and_starts_no_task(self) -> None:
        unused = scope(commit=True)
        for step in (unused.__aenter__(), unused.__aexit__(None, None, None)):
            with pytest.raises(StopIteration):
                step.send(None)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def test_only_what_is_touched_is_made(
        self, Session: AsyncScopedSession[AsyncSession], factory: Factory
    ) -> None:
        other = ScopedResource(list[int])
        async with scope():
            async with scope():
                other()
            Session.add_all([])
            assert factory.made == [Session()]

    async def test_a_session_that_sends_nothing_takes_no_connection(
        self, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            Session.add_all([])
            assert Session.in_transaction() is False
        assert connections(engine) == (0, 0)


class TestLaw07OneObjectPerResourceAndScope:
    """One object per resource and scope, also when many tasks touch it first at the same moment."""

    async def test_many_tasks_that_come_first_at_once_get_one_session(
        self, Session: AsyncScopedSession[AsyncSession], factory: Factory
    ) -> None:
        async def child() -> AsyncSession:
            await everybody.wait()
            return Session()

        everybody = asyncio.Barrier(100)
        async with scope():
            sessions = await asyncio.gather(*(child() for _ in range(100)))
        assert set(sessions) == {factory.made[0]}
        assert len(factory.made) == 1

    async def test_every_way_to_touch_it_finds_the_same(
        self, Session: AsyncScopedSession[AsyncSession], factory: Factory
    ) -> None:
        async with scope():
            Session.expire_all()
            assert await Session.scalar(ONE) == 1
            assert await Session.run_sync(lambda session: session) is Session().sync_session
            assert Session.registry() is Session()
            assert list(Session) == []
        assert len(factory.made) == 1

    async def test_other_resources_and_other_scopes_have_objects_of_their_own(self) -> None:
        first, second = ScopedResource(object), ScopedResource(object)
        async with scope():
            outer = first(), second()
            async with scope():
                inner = first(), second()
            assert (first(), second()) == outer
        async with scope():
            later = first(), second()
        assert len({*outer, *inner, *later}) == 6

    async def test_a_factory_that_raises_leaves_nothing_behind(self) -> None:
        def make() -> str:
            calls.append(None)
            if len(calls) == 1:
                raise LookupError
            return "made"

        calls: list[None] = []
        resource = ScopedResource(make)
        async with scope():
            with pytest.raises(LookupError):
                resource()
            assert resource() == "made"
