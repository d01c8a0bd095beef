"""Laws 25 to 27 in a callback: the outcome of its scope is known, so there is nothing to join any more."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import Log, Sessions, stored, write
from scoped_async import NoScopeError, Scope, current_scope, scope

Service = Callable[[str], Awaitable[Scope]]

EITHER = pytest.mark.parametrize("commit", [True, False], ids=["committed", "rolled back"])


@pytest.fixture(params=["join", "nested"])
def service(request: pytest.FixtureRequest, Session: Sessions, log: Log) -> Service:
    """A function of an application, which joins the unit of whoever calls it, or is one of its own."""

    @scope(commit=True, propagation=request.param)
    async def audit(line: str) -> Scope:
        await write(Session, line)
        log.watch(line)
        return current_scope()

    return audit


def register(opened: Scope, callback: Callable[..., Any], *arguments: Any) -> None:
    """For either fate."""
    opened.after_commit(callback, *arguments)
    opened.after_rollback(callback, *arguments)


class TestLaw25InACallbackOfTheExit:
    """What joins or nests opens a scope of its own there, which commits as it says."""

    @EITHER
    async def test_it_opens_a_scope_and_commits(
        self, commit: bool, service: Service, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        own: list[Scope] = []

        async def callback() -> None:
            own.append(await service("audit"))
            assert current_scope() is opened

        async with scope(commit=commit) as opened:
            await write(Session, "order")
            register(opened, callback)
        assert own[0] is not opened
        assert await stored(engine) == ({"order", "audit"} if commit else {"audit"})
        assert log == ["audit committed"]

    async def test_its_failure_is_its_own(
        self, service: Service, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        @scope(commit=True, propagation="join")
        async def failing() -> None:
            await write(Session, "lost")
            raise LookupError("the callback's")

        with pytest.raises(LookupError, match="the callback's"):
            async with scope(commit=True) as opened:
                await write(Session, "order")
                opened.after_commit(failing)
                opened.after_commit(service, "audit")
        assert await stored(engine) == {"order", "audit"}
        assert log == ["audit committed"]

    async def test_a_service_that_calls_another_is_one_unit(
        self, service: Service, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        @scope(commit=True, propagation="join")
        async def report() -> None:
            await write(Session, "report")
            assert await service("audit") is current_scope()
            raise LookupError("the callback's")

        with pytest.raises(LookupError):
            async with scope(commit=True) as opened:
                await write(Session, "order")
                opened.after_commit(report)
        assert await stored(engine) == {"order"}
        assert log == ["audit rolled back"]

    async def test_by_a_callback_that_the_exit_finds_within_a_scope(
        self, service: Service, Session: Sessions, engine: AsyncEngine
    ) -> None:
        """It joins nothing, the scope around it least of all: that has an outcome of its own."""
        async with scope() as outer:
            await write(Session, "outer, rolled back")
            async with scope(commit=True) as inner:
                inner.after_commit(service, "audit")
            assert current_scope() is outer
        assert await stored(engine) == {"audit"}


class TestLaw25InACallbackOfTheBody:
    """In a callback that a commit in the body runs the scope is open and goes on: that is what is joined."""

    async def test_it_joins(self, service: Service, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope() as opened:
            await write(Session, "order")
            opened.after_commit(service, "audit")
            await Session.commit()
            assert await stored(engine) == {"order"}
        assert await stored(engine) == {"order"}
        assert log == ["audit rolled back"]


class TestLaw27InACallback:
    """ "mandatory" finds nothing to join in a callback of the exit."""

    @EITHER
    async def test_it_raises(self, commit: bool, Session: Sessions, engine: AsyncEngine) -> None:
        @scope(propagation="mandatory")
        async def service() -> None:
            pytest.fail("entered")

        with pytest.raises(NoScopeError, match="needs a scope to join"):
            async with scope(commit=commit) as opened:
                await write(Session, "order")
                register(opened, service)
        assert await stored(engine) == ({"order"} if commit else set())
