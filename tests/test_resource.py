"""ScopedResource: one object of any kind per scope, ended by the hooks given."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from scoped_async import (
    AsyncScopedSession,
    ForeignThreadError,
    ScopeClosedError,
    ScopedResource,
    ScopeError,
    current_scope,
    scope,
)


class Logged(ScopedResource[str]):
    """A resource whose hooks, sync or async, note their name and the object."""

    def __init__(self, name: str, log: list[str], *, awaits: bool = False) -> None:
        def hook(what: str) -> Callable[[str], Any]:
            async def note_later(thing: str) -> None:
                await asyncio.sleep(0)
                log.append(f"{what} {thing}")

            def note(thing: str) -> None:
                log.append(f"{what} {thing}")

            return note_later if awaits else note

        super().__init__(lambda: name, commit=hook("commit"), rollback=hook("rollback"), close=hook("close"))


@pytest.fixture
def log() -> list[str]:
    return []


class TestTheObject:
    """The factory makes one object per scope, on the first call."""

    async def test_it_is_what_the_factory_returned_until_the_scope_ends(self) -> None:
        resource = ScopedResource(object)
        async with scope():
            first = resource()
            assert resource() is first
        async with scope():
            assert resource() is not first

    async def test_it_may_be_anything_also_none_or_something_without_truth(self) -> None:
        made: list[None] = []
        nothing = ScopedResource(lambda: made.append(None))
        async with scope():
            assert [nothing(), nothing()] == [None, None]
            assert len(made) == 1

    async def test_a_factory_may_use_other_resources(self, log: list[str]) -> None:
        inner = Logged("inner", log)
        outer = ScopedResource(lambda: [inner()], close=lambda thing: log.append(f"close {thing}"))
        async with scope():
            assert outer() == ["inner"]
        assert log == ["rollback inner", "close ['inner']", "close inner"]

    async def test_of_a_scope_that_has_ended_it_is_gone(self) -> None:
        resource = ScopedResource(object)

        async def late() -> None:
            await over.wait()
            with pytest.raises(ScopeClosedError, match=r"ScopedResource\(object\)"):
                resource()

        over = asyncio.Event()
        async with scope():
            resource()
            task = asyncio.create_task(late())
        over.set()
        await task

    async def test_another_thread_may_not_have_it(self) -> None:
        resource = ScopedResource(object)
        async with scope():
            resource()
            with pytest.raises(ForeignThreadError, match=r"ScopedResource\(object\)"):
                await asyncio.to_thread(resource)


@pytest.mark.parametrize("awaits", [False, True])
class TestTheHooks:
    """``commit``, ``rollback`` and ``close``, sync or async, are called with the object."""

    async def test_a_clean_exit_with_commit(self, awaits: bool, log: list[str]) -> None:
        async with scope(commit=True):
            Logged("a", log, awaits=awaits)()
            Logged("b", log, awaits=awaits)()
        assert log == ["commit a", "commit b", "close b", "close a"]

    async def test_a_clean_exit_without(self, awaits: bool, log: list[str]) -> None:
        async with scope():
            Logged("a", log, awaits=awaits)()
            Logged("b", log, awaits=awaits)()
        assert log == ["rollback b", "rollback a", "close b", "close a"]

    async def test_an_exit_by_an_exception(self, awaits: bool, log: list[str]) -> None:
        async def unit() -> None:
            async with scope(commit=True):
                Logged("a", log, awaits=awaits)()
                raise LookupError

        with pytest.raises(LookupError):
            await unit()
        assert log == ["rollback a", "close a"]

    async def test_commits_and_rollbacks_of_the_scope(self, awaits: bool, log: list[str]) -> None:
        resource = Logged("a", log, awaits=awaits)
        async with scope() as opened:
            resource()
            await opened.commit()
            resource()
            await opened.rollback()
            assert log == ["commit a", "rollback a"]
        assert log[-1] == "close a"

    async def test_one_that_fails_to_commit(self, awaits: bool, log: list[str]) -> None:
        async def fail(_: str) -> None:
            raise OSError("commit")

        async def unit() -> None:
            async with scope(commit=True):
                Logged("before", log, awaits=awaits)()
                ScopedResource(lambda: "fails", commit=fail, rollback=lambda _: log.append("rollback it"))()
                Logged("after", log, awaits=awaits)()

        with pytest.raises(OSError, match="commit") as caught:
            await unit()
        assert "rollback after" in log
        assert "commit after" not in log
        assert log[0] == "commit before"
        assert log[-2:] == ["close after", "close before"]
        assert "ScopedResource" in caught.value.__notes__[0]


class TestBesideASession:
    """A resource and a session end in one exit."""

    async def test_each_in_its_turn(self, log: list[str], engine: AsyncEngine) -> None:
        Session = AsyncScopedSession(async_sessionmaker(engine))
        resource = Logged("a", log)
        async with scope(commit=True):
            resource()
            await Session.execute(text("SELECT 1"))
        assert log == ["commit a", "close a"]

    async def test_a_callback_comes_between_the_outcome_and_the_close(self, log: list[str]) -> None:
        async with scope(commit=True) as opened:
            Logged("a", log)()
            opened.after_commit(log.append, "callback")
        assert log == ["commit a", "callback", "close a"]

    async def test_one_that_a_callback_touches_is_ended_too(self, log: list[str]) -> None:
        resource = Logged("late", log)
        async with scope(commit=True) as opened:
            opened.after_commit(resource)
        assert log == ["rollback late", "close late"]

    async def test_a_close_hook_finds_no_scope_any_more(self) -> None:
        seen: list[str] = []

        def close(_: object) -> None:
            try:
                current_scope()
            except ScopeClosedError as error:
                seen.append(str(error))

        async with scope(name="the_scope"):
            ScopedResource(object, close=close)()
        assert "the_scope is closing" in seen[0]

    async def test_a_nested_block_that_fails_leaves_it_as_it_is(self, log: list[str]) -> None:
        async def nested() -> None:
            async with scope(propagation="nested"):
                resource()
                raise LookupError

        resource = Logged("a", log)
        async with scope(commit=True):
            with pytest.raises(LookupError):
                await nested()
            assert log == []
        assert log == ["commit a", "close a"]

    async def test_inside_a_block_it_is_not_committed(self, log: list[str]) -> None:
        async with scope() as opened:
            Logged("a", log)()
            async with scope(propagation="join"):
                with pytest.raises(ScopeError, match="block"):
                    await opened.commit()
            assert log == []
