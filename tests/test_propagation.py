"""Laws 24, 25 and 27: a scope of its own, or a block that joins the current one."""

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from entries import Sessions, stored, write
from scoped_async import (
    NoScopeError,
    Scope,
    ScopeError,
    current_scope,
    scope,
)


class TestLaw24New:
    """propagation="new" is the default: always a scope with sessions of its own."""

    @pytest.mark.parametrize("options", [{}, {"propagation": "new"}])
    async def test_it_is_a_scope_within_the_scope(
        self, options: dict[str, str], Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope() as outer:
            await write(Session, "outer")
            its_session = Session()
            async with scope(commit=True, **options) as inner:  # type: ignore[arg-type]
                assert inner is not outer
                assert inner.parent is outer
                assert Session() is not its_session
                await write(Session, "inner")
            assert await stored(engine) == {"inner"}
            assert current_scope() is outer
            assert Session() is its_session
        assert await stored(engine) == {"inner"}

    async def test_a_decorated_function_has_one_per_call(self, Session: Sessions) -> None:
        @scope()
        async def session_of_the_call() -> tuple[Scope, AsyncSession]:
            return current_scope(), Session()

        async with scope() as outer:
            one, its_session = await session_of_the_call()
            other, other_session = await session_of_the_call()
            assert len({outer, one, other}) == 3
            assert len({Session(), its_session, other_session}) == 3

    def test_any_other_word_is_refused_at_the_call(self) -> None:
        with pytest.raises(ValueError, match="'new', 'join', 'nested', 'mandatory'"):
            scope(propagation="requires_new")  # type: ignore[arg-type]


JOINING = pytest.mark.parametrize("word", ["join", "mandatory"])


class TestLaw25Join:
    """ "join" runs in the current scope, whose outermost block decides; without one it opens a new one."""

    @JOINING
    async def test_it_runs_in_the_current_scope_and_leaves_the_outcome_to_it(
        self, word: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope() as outer:
            its_session = Session()
            async with scope(propagation=word, commit=True) as joined:  # type: ignore[arg-type]
                assert joined is outer
                assert current_scope() is outer
                assert Session() is its_session
                await write(Session, "asked to commit, but not the outermost")
            assert not outer.closed
            assert await stored(engine) == set()
            assert Session() is its_session
        assert await stored(engine) == set()

    @JOINING
    async def test_the_outermost_commits_what_was_done_in_the_block(
        self, word: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        @scope(propagation=word)  # type: ignore[arg-type]
        async def service(name: str) -> Scope:
            await write(Session, name)
            return current_scope()

        async with scope(commit=True) as outer:
            await write(Session, "outer")
            assert await service("joined") is outer
        assert await stored(engine) == {"outer", "joined"}

    async def test_without_a_scope_it_opens_a_new_one_with_its_own_options(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        @scope(commit=True, propagation="join")
        async def service() -> Scope:
            await write(Session, "one")
            return current_scope()

        own = await service()
        assert own.closed
        assert own.name == service.__qualname__
        assert await stored(engine) == {"one"}

        async with scope(commit=True, propagation="join", name="mine") as opened:
            assert opened.name == "mine"
            assert opened.parent is None
        assert opened.closed

    async def test_with_a_dead_scope_it_opens_a_new_one(self, Session: Sessions, engine: AsyncEngine) -> None:
        ended = asyncio.Event()

        async def late() -> tuple[Scope, Scope | None]:
            await ended.wait()
            async with scope(commit=True, propagation="join") as opened:
                await write(Session, "late")
                return opened, opened.parent

        async with scope() as outer:
            async with scope() as inner:
                task = asyncio.create_task(late())
            ended.set()
            opened, parent = await task
            assert opened not in (outer, inner)
            assert parent is outer
            assert await stored(engine) == {"late"}

    async def test_a_child_of_a_joined_block_that_has_ended_is_in_its_scope(self, Session: Sessions) -> None:
        ended = asyncio.Event()

        async def late() -> Scope:
            await ended.wait()
            Session.add_all([])
            async with scope(propagation="join") as joined:
                assert joined is current_scope()
            return current_scope()

        async with scope() as outer:
            async with scope(propagation="join"):
                task = asyncio.create_task(late())
            ended.set()
            assert await task is outer

    async def test_a_scope_object_is_entered_once(self) -> None:
        async with scope():
            once = scope(propagation="join")
            async with once:
                with pytest.raises(ScopeError, match="entered before"):
                    await once.__aenter__()
            with pytest.raises(ScopeError, match="entered before"):
                await once.__aenter__()
            with pytest.raises(ScopeError, match="left before"):
                await once.__aexit__(None, None, None)


class TestLaw27Mandatory:
    """ "mandatory" is "join" that raises NoScopeError when there is nothing to join."""

    async def test_without_a_scope(self) -> None:
        with pytest.raises(NoScopeError, match=r"mandatory.*propagation=\"join\""):
            async with scope(propagation="mandatory"):
                pytest.fail("entered")

    async def test_with_a_dead_one(self) -> None:
        ended = asyncio.Event()

        @scope(propagation="mandatory")
        async def late() -> None:
            pytest.fail("entered")

        async def wait_and_call() -> None:
            await ended.wait()
            await late()

        async with scope():
            async with scope():
                task = asyncio.create_task(wait_and_call())
            ended.set()
            with pytest.raises(NoScopeError):
                await task

    @pytest.mark.parametrize("word", ["join", "nested", "mandatory"])
    async def test_a_block_has_the_options_of_the_scope_that_is_there(self, word: str) -> None:
        inner = scope(propagation=word, name="inner", close_timeout=0.5)  # type: ignore[arg-type]
        async with scope(readonly=True, name="outer"), inner as there:
            assert there.readonly
            assert there.name == "outer"
            assert there.options.close_timeout == 10.0
