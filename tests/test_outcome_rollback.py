"""A rollback that fails: after a failed commit, or asked for."""

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.pool import QueuePool

from entries import Log, Sessions, break_the_commit, stored, write
from scoped_async import AsyncScopedSession, ScopedResource, scope


class FailsToRollBack(AsyncSession):
    async def rollback(self) -> None:
        raise OSError("rollback failed")


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


class TestLaw20TheRollbackAfterAFailedCommit:
    """When that fails as well, the connection is terminated, and the commit's error says so."""

    async def test_at_the_exit(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        Failing = AsyncScopedSession(async_sessionmaker(engine, class_=FailsToRollBack))
        with pytest.raises(IntegrityError) as raised:
            async with scope(commit=True):
                log.watch()
                await break_the_commit(Failing)
        assert any("The rollback after it failed too" in note for note in raised.value.__notes__)
        assert log == ["rolled back"]
        assert await stored(engine) == set()
        assert checked_out(engine) == 0

    async def test_in_the_body(self, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        Failing = AsyncScopedSession(async_sessionmaker(engine, class_=FailsToRollBack))
        async with scope():
            log.watch()
            await break_the_commit(Failing)
            with pytest.raises(IntegrityError) as raised:
                await Failing.commit()
            assert log == ["rolled back"]
            assert checked_out(engine) == 0, "it is gone at once"
        assert any("The rollback after it failed too" in note for note in raised.value.__notes__)
        assert await stored(engine) == set()


class TestLaw10ARollbackThatFails:
    """`scope.rollback()` rolls back the others all the same, and raises what failed."""

    @pytest.mark.parametrize("error", [OSError, GeneratorExit])
    async def test_of_one_resource(
        self, error: type[BaseException], Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        def fail(_: str) -> None:
            raise error

        undone: list[str] = []
        async with scope() as opened:
            ScopedResource(lambda: "first", rollback=undone.append)()
            await write(Session, "lost")
            ScopedResource(lambda: "last", rollback=fail)()
            log.watch()
            with pytest.raises(error):
                await opened.rollback()
            if error is OSError:
                assert undone == ["first"]
                assert log == ["rolled back"]
        assert undone == ["first"]
        assert log == ["rolled back"]
        assert await stored(engine) == set()
        assert checked_out(engine) == 0

    async def test_of_several(self) -> None:
        def fail(name: str) -> None:
            raise OSError(name)

        async with scope() as opened:
            for name in ("first", "last"):
                ScopedResource(lambda name=name: name, rollback=fail)()  # type: ignore[misc]
            with pytest.raises(ExceptionGroup, match="The rollback failed") as raised:
                await opened.rollback()
        assert [str(each) for each in raised.value.exceptions] == ["last", "first"]
