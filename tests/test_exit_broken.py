"""Law 10, where what the exit meets is broken itself: factories, exceptions, and what hooks raise."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import QueuePool

from scoped_async import (
    AsyncScopedSession,
    NoScopeError,
    RollbackOnlyError,
    Scope,
    ScopedResource,
    current_scope,
    scope,
)


@pytest.fixture
def Session(engine: AsyncEngine) -> AsyncScopedSession[AsyncSession]:
    return AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


class Imitation:
    """It has what an AsyncSession has, and is none."""

    async def execute(self, statement: object) -> str:
        return "executed"

    async def close(self) -> None: ...


class TestLaw10AFactoryOfSomethingElse:
    """A factory that returns no AsyncSession is refused at the first touch, and the scope is left as ever."""

    @pytest.mark.parametrize(
        "factory", [sessionmaker(), Imitation, lambda: None], ids=["sync", "fake", "None"]
    )
    async def test_the_rest_is_closed_and_nothing_is_current(
        self, factory: Any, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        closed: list[str] = []
        Wrong: AsyncScopedSession[Any] = AsyncScopedSession(factory)
        with pytest.raises(TypeError, match=r"is no AsyncSession.*async_sessionmaker"):
            async with scope(commit=True) as opened:
                ScopedResource(lambda: "resource", close=closed.append)()
                await Session.execute(text("SELECT 1"))
                await Wrong.execute(text("SELECT 1"))
        assert closed == ["resource"]
        assert checked_out(engine) == 0
        assert opened.closed
        with pytest.raises(NoScopeError):
            await Session.execute(text("SELECT 1"))

    async def test_an_async_one_is_told_to_be_none(self) -> None:
        async def factory() -> AsyncSession:
            raise NotImplementedError

        made = factory()
        Wrong: AsyncScopedSession[Any] = AsyncScopedSession(lambda: made)
        with pytest.raises(TypeError, match="a function that is not async"):
            async with scope():
                Wrong()
        made.close()  # so that nobody complains that it was never awaited

    async def test_a_scope_that_swallows_it_goes_on(
        self, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        Wrong: AsyncScopedSession[Any] = AsyncScopedSession(Imitation)
        async with scope(commit=True):
            for _ in range(2):
                with pytest.raises(TypeError, match="is no AsyncSession"):
                    Wrong()
            assert not Wrong.registry.has()
            await Session.execute(text("SELECT 1"))
        assert checked_out(engine) == 0

    async def test_the_registry_refuses_one_and_keeps_what_it_had(
        self, Session: AsyncScopedSession[AsyncSession]
    ) -> None:
        async with scope():
            before = Session()
            with pytest.raises(TypeError, match="is no AsyncSession"):
                Session.registry.set(Imitation())  # type: ignore[arg-type]
            assert Session() is before


def end_of_a_generator(*_: object) -> None:
    raise GeneratorExit


class TestLaw10AGeneratorExitOutOfAHook:
    """A hook or callback that raises GeneratorExit ends the exit early: the scope is left all the same."""

    def leaving(self, where: str, opened: Scope) -> None:
        if where == "after_commit":
            opened.after_commit(end_of_a_generator)
        elif where == "after_rollback":
            opened.after_rollback(end_of_a_generator)
        else:
            ScopedResource(object, **{where: end_of_a_generator})()

    @pytest.mark.parametrize("where", ["after_commit", "after_rollback", "commit", "rollback", "close"])
    async def test_no_connection_stays_out_and_no_scope_current(
        self, where: str, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        with pytest.raises(GeneratorExit):
            async with scope(commit="rollback" not in where) as opened:
                await Session.execute(text("SELECT 1"))
                self.leaving(where, opened)
        assert opened.closed
        assert current_scope(None) is None
        assert checked_out(engine) == 0
        async with scope():
            assert await Session.scalar(text("SELECT 1")) == 1

    async def test_the_exception_of_the_body_stays(
        self, Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        with pytest.raises(LookupError) as raised:
            async with scope() as opened:
                await Session.execute(text("SELECT 1"))
                self.leaving("rollback", opened)
                raise LookupError
        assert "GeneratorExit" in raised.value.__notes__[0]
        assert current_scope(None) is None
        assert checked_out(engine) == 0

    async def test_a_cancellation_that_came_meanwhile_stays(self) -> None:
        async def end_of_a_generator_later() -> None:
            leaving.cancel()
            await asyncio.sleep(0)
            raise GeneratorExit

        async def leave() -> None:
            async with scope() as opened:
                opened.after_commit(end_of_a_generator_later)

        leaving = asyncio.create_task(leave())
        with pytest.raises(asyncio.CancelledError) as raised:
            await leaving
        assert "GeneratorExit" in raised.value.__notes__[0]


class Falsy(Exception):
    """One that looks like nothing, as a collection of errors that is empty does."""

    def __len__(self) -> int:
        return 0


class OwnNotes(Exception):
    """One whose notes are no list."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.__notes__: Any = "a note of its own"


class NoNotes(Exception):
    """One that takes no notes."""

    def add_note(self, note: str) -> None:
        raise RuntimeError("no notes")


def notes_of(error: BaseException) -> Iterator[str]:
    yield from error.__notes__


class TestLaw10OddExceptions:
    """Whatever the body's exception looks like, it comes out, and what failed in the exit is noted on it."""

    @pytest.mark.parametrize("kind", [Falsy, OwnNotes, NoNotes])
    @pytest.mark.parametrize("hook", ["close", "rollback"])
    async def test_of_the_body(self, hook: str, kind: type[Exception]) -> None:
        def fail(_: object) -> None:
            raise OSError("the hook failed")

        body = kind("the body's")
        resource = ScopedResource(object, **{hook: fail})
        with pytest.raises(kind) as raised:
            async with scope():
                resource()
                raise body
        assert raised.value is body
        assert any("the hook failed" in note for note in notes_of(body))

    @pytest.mark.parametrize("kind", [Falsy, OwnNotes, NoNotes])
    async def test_of_a_joined_block_it_marks_the_scope(self, kind: type[Exception]) -> None:
        failure = kind("the block's")
        with pytest.raises(RollbackOnlyError) as raised:
            async with scope(commit=True):
                for error in (failure, LookupError("a later one")):
                    with pytest.raises(type(error)):
                        async with scope(propagation="join"):
                            raise error
        assert raised.value.__cause__ is failure

    async def test_the_body_and_a_callback_may_raise_the_same_one(self) -> None:
        def raise_it() -> None:
            raise body

        body = LookupError("the body's")
        with pytest.raises(LookupError) as raised:
            async with scope() as opened:
                opened.after_rollback(raise_it)
                raise body
        assert raised.value is body
        assert not hasattr(body, "__notes__"), "it is no note on itself"

    async def test_a_note_of_its_own_stays(self) -> None:
        body = OwnNotes("the body's")
        with pytest.raises(OwnNotes):
            async with scope() as opened:
                opened.after_rollback(end_of_a_generator)
                raise body
        assert any("a note of its own" in note for note in notes_of(body))

    @pytest.mark.parametrize("kind", [Falsy, OwnNotes, NoNotes])
    async def test_of_a_callback(self, kind: type[Exception]) -> None:
        def raising(error: Exception) -> Callable[[], None]:
            def fail() -> None:
                raise error

            return fail

        odd = kind("odd")
        with pytest.raises(kind) as raised:
            async with scope(commit=True) as opened:
                opened.after_commit(raising(odd))
        assert raised.value is odd
        with pytest.raises(ExceptionGroup) as group:
            async with scope(commit=True) as opened:
                opened.after_commit(raising(odd))
                opened.after_commit(raising(LookupError()))
        assert group.value.exceptions[0] is odd

    @pytest.mark.parametrize("kind", [Falsy, OwnNotes, NoNotes])
    @pytest.mark.parametrize("word", ["join", "nested"])
    async def test_of_a_block(
        self, word: str, kind: type[Exception], Session: AsyncScopedSession[AsyncSession], engine: AsyncEngine
    ) -> None:
        body = kind("the block's")
        with pytest.raises(kind) as raised:
            async with scope(commit=True):
                await Session.execute(text("SELECT 1"))
                async with scope(propagation=word) as inner:  # type: ignore[arg-type]
                    inner.after_rollback(end_of_a_generator)
                    raise body
        assert raised.value is body
        assert checked_out(engine) == 0
