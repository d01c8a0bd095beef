"""Law 25: a block that joined and failed, or `rollback_only` set by hand, leaves nothing to commit."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import Sessions, scoped_session, stored, write
from scoped_async import (
    RollbackOnlyError,
    ScopedResource,
    ScopeError,
    current_scope,
    scope,
)

JOINING = pytest.mark.parametrize("word", ["join", "mandatory"])


async def session_commit(Session: Sessions) -> None:
    await Session.commit()


async def begin(Session: Sessions) -> None:
    await Session.rollback()
    async with Session.begin():
        await write(Session, "in begin()")


async def scope_commit(Session: Sessions) -> None:
    await current_scope().commit()


COMMITS = pytest.mark.parametrize("commit", [session_commit, begin, scope_commit])
Commit = Callable[[Sessions], Awaitable[None]]


class TestLaw25RollbackOnly:
    """A joined block that fails marks the scope: every commit of it raises, and commits nothing."""

    @JOINING
    async def test_the_exit_refuses_although_the_exception_was_swallowed(
        self, word: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        failure = LookupError("the block's")

        @scope(propagation=word)  # type: ignore[arg-type]
        async def service() -> None:
            await write(Session, "joined")
            raise failure

        with pytest.raises(RollbackOnlyError, match="the block's") as raised:
            async with scope(commit=True) as outer:
                await write(Session, "outer")
                with pytest.raises(LookupError):
                    await service()
                assert outer.rollback_only
        assert raised.value.__cause__ is failure
        assert await stored(engine) == set()

    @COMMITS
    async def test_every_commit_in_the_body_refuses(
        self, commit: Commit, Session: Sessions, engine: AsyncEngine
    ) -> None:
        failure = LookupError("the block's")
        async with scope() as outer:
            await write(Session, "outer")
            with pytest.raises(LookupError):
                async with scope(propagation="join"):
                    raise failure
            with pytest.raises(RollbackOnlyError) as raised:
                await commit(Session)
            assert raised.value.__cause__ is failure
            assert outer.rollback_only
        assert await stored(engine) == set()

    async def test_a_cancelled_block_has_failed(self, Session: Sessions, engine: AsyncEngine) -> None:
        entered = asyncio.Event()

        @scope(propagation="join")
        async def service() -> None:
            entered.set()
            await asyncio.Event().wait()

        with pytest.raises(RollbackOnlyError) as raised:
            async with scope(commit=True):
                await write(Session, "outer")
                task = asyncio.create_task(service())
                await entered.wait()
                task.cancel()
                await asyncio.wait([task])
        assert isinstance(raised.value.__cause__, asyncio.CancelledError)
        assert await stored(engine) == set()

    async def test_the_exception_that_comes_out_of_the_scope_is_the_blocks_own(
        self, Session: Sessions
    ) -> None:
        with pytest.raises(LookupError, match="the block's"):
            async with scope(commit=True), scope(propagation="join"):
                raise LookupError("the block's")

    async def test_the_first_failure_is_the_cause(self) -> None:
        with pytest.raises(RollbackOnlyError, match="first"):
            async with scope(commit=True):
                for name in ("first", "second"):
                    with pytest.raises(LookupError):
                        async with scope(propagation="join"):
                            raise LookupError(name)

    async def test_rollback_of_the_scope_clears_the_mark(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True) as outer:
            await write(Session, "lost")
            with pytest.raises(LookupError):
                async with scope(propagation="join"):
                    raise LookupError
            await Session.rollback()
            assert outer.rollback_only, "only the scope's rollback clears it"
            await outer.rollback()
            assert not outer.rollback_only
            await write(Session, "kept")
        assert await stored(engine) == {"kept"}

    async def test_without_a_commit_asked_for_nothing_is_raised(self, Session: Sessions) -> None:
        async with scope():
            await write(Session, "never asked for")
            with pytest.raises(LookupError):
                async with scope(propagation="join"):
                    raise LookupError

    async def test_every_resource_of_the_scope_is_rolled_back(self, engine: AsyncEngine) -> None:
        One, Other = await scoped_session(engine), await scoped_session(engine)
        ended: list[str] = []
        files = ScopedResource(
            list[str], commit=lambda _: ended.append("commit"), rollback=lambda _: ended.append("rollback")
        )
        with pytest.raises(RollbackOnlyError):
            async with scope(commit=True):
                await write(One, "one")
                await write(Other, "other")
                files()
                with pytest.raises(LookupError):
                    async with scope(propagation="join"):
                        raise LookupError
        assert await stored(engine) == set()
        assert ended == ["rollback"]


class TestLaw25RollbackOnlyByHand:
    """Set by hand, `rollback_only` makes the exit roll back without an error; an explicit commit raises."""

    async def test_the_exit_rolls_back_without_an_error(self, Session: Sessions, engine: AsyncEngine) -> None:
        async with scope(commit=True) as opened:
            await write(Session, "one")
            assert not opened.rollback_only
            opened.rollback_only = True
            assert opened.rollback_only
        assert await stored(engine) == set()

    @COMMITS
    async def test_an_explicit_commit_raises_all_the_same(
        self, commit: Commit, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True) as opened:
            await write(Session, "one")
            opened.rollback_only = True
            with pytest.raises(RollbackOnlyError, match="rollback_only was set") as raised:
                await commit(Session)
            assert raised.value.__cause__ is None
        assert await stored(engine) == set()

    async def test_inside_a_joined_block_it_is_that_blocks_failure(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        with pytest.raises(RollbackOnlyError) as raised:
            async with scope(commit=True) as outer:
                await write(Session, "one")
                async with scope(propagation="join"):
                    current_scope().rollback_only = True
                    assert current_scope().rollback_only
                assert outer.rollback_only
        assert isinstance(raised.value.__cause__, ScopeError)
        assert await stored(engine) == set()

    async def test_a_joined_block_that_opened_the_scope_is_the_scope(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True, propagation="join"):
            await write(Session, "one")
            current_scope().rollback_only = True
        assert await stored(engine) == set()

    async def test_rollback_clears_it_and_nothing_else_does(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True) as opened:
            opened.rollback_only = True
            with pytest.raises(ScopeError, match="rollback"):
                opened.rollback_only = False
            await opened.rollback()
            assert not opened.rollback_only
            await write(Session, "kept")
        assert await stored(engine) == {"kept"}
