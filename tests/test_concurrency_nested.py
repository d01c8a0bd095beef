"""Law 14: one task may nest operations, and what it hands out follows the scope to its end."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from entries import Entry, Log, Sessions, stored, write
from scoped_async import AsyncScopedSession, ConcurrentUseError, ScopeClosedError, current_scope, scope
from scoped_async.session import delegate


class ImportingSession(AsyncSession):
    """One with operations of its own, which use the proxy as the rest of the application does."""

    async def import_in_a_savepoint(self, line: str) -> None:
        async with Importing.begin_nested():
            await write(Importing, line)
            await another_task_is_refused()
        await another_task_is_refused()

    async def import_in_a_block(self, line: str) -> None:
        async with scope(propagation="nested"):
            await write(Importing, line)
            await another_task_is_refused()
        await another_task_is_refused()

    async def import_in_a_transaction(self, line: str) -> None:
        async with Importing.begin():
            await write(Importing, line)
            await another_task_is_refused()
        await another_task_is_refused()

    async def import_and_commit(self, line: str) -> None:
        await write(Importing, line)
        await current_scope().commit()
        await another_task_is_refused()


async def another_task_is_refused() -> None:
    """The operation is in flight till it returns, whatever it did meanwhile."""
    with pytest.raises(ConcurrentUseError, match="is in import_"):
        await asyncio.gather(Importing.scalar(select(1)))


class ImportingScoped(AsyncScopedSession[ImportingSession]):
    import_in_a_savepoint = delegate(ImportingSession.import_in_a_savepoint)
    import_in_a_block = delegate(ImportingSession.import_in_a_block)
    import_in_a_transaction = delegate(ImportingSession.import_in_a_transaction)
    import_and_commit = delegate(ImportingSession.import_and_commit)


Importing = ImportingScoped(async_sessionmaker(class_=ImportingSession, expire_on_commit=False))


class TestLaw14OneTaskMayNestOperations:
    """An operation of a session class of one's own may do all that its caller may."""

    @pytest.fixture(autouse=True)
    def on_this_engine(self, Session: Sessions, engine: AsyncEngine) -> None:
        Importing.configure(bind=engine)

    @pytest.mark.parametrize("how", ["import_in_a_savepoint", "import_in_a_block"])
    async def test_a_savepoint(self, how: str, engine: AsyncEngine) -> None:
        async with scope(commit=True):
            await getattr(Importing, how)("imported")
        assert await stored(engine) == {"imported"}

    @pytest.mark.parametrize("how", ["import_in_a_transaction", "import_and_commit"])
    async def test_a_commit(self, how: str, engine: AsyncEngine) -> None:
        async with scope():
            await getattr(Importing, how)("imported")
            assert await stored(engine) == {"imported"}
            assert await Importing.scalar(select(Entry.text)) == "imported"


class TestLaw14Partitions:
    """The pieces of a stream come out as they are asked for."""

    async def test_they_are_all_there(self, Session: Sessions) -> None:
        async with scope():
            await write(Session, "a", "b", "c")
            lines = await Session.stream_scalars(select(Entry.text).order_by(Entry.id))
            assert [piece async for piece in pieces(lines.partitions(2))] == [["a", "b"], ["c"]]


async def pieces(partitions: AsyncIterator[object]) -> AsyncIterator[list[object]]:
    async for partition in partitions:
        yield list(partition)  # type: ignore[call-overload]


@pytest.mark.parametrize("how", ["begin", "begin_nested"])
class TestLaw08ATransactionThatOutlivesItsScope:
    """The block of a child that was not awaited in time has been rolled back with the scope."""

    async def late(self, how: str, Session: Sessions, error: Exception | None) -> BaseException | None:
        """What comes out of the block, when its body ends after the scope, well or not."""

        async def child() -> None:
            async with Session.begin() if how == "begin" else Session.begin_nested():
                await write(Session, "lost")
                begun.set()
                await ended.wait()
                if error is not None:
                    raise error

        begun, ended = asyncio.Event(), asyncio.Event()
        async with scope():
            task = asyncio.create_task(child())
            await begun.wait()
        ended.set()
        (raised,) = await asyncio.gather(task, return_exceptions=True)
        return raised

    async def test_one_that_ends_well_is_told(self, how: str, Session: Sessions, engine: AsyncEngine) -> None:
        assert isinstance(await self.late(how, Session, None), ScopeClosedError)
        assert await stored(engine) == set()

    async def test_one_that_fails_does_so_as_it_would(
        self, how: str, Session: Sessions, engine: AsyncEngine
    ) -> None:
        error = LookupError()
        assert await self.late(how, Session, error) is error
        assert not hasattr(error, "__notes__")
        assert await stored(engine) == set()


class TestLaw26ASavepointThatIsGone:
    """A savepoint that went with what is around it is in nobody's way."""

    @pytest.mark.parametrize("end", ["rollback", "close"])
    async def test_with_the_whole_transaction(self, end: str, Session: Sessions, engine: AsyncEngine) -> None:
        async with scope(commit=True):
            await Session.begin_nested()
            await getattr(Session, end)()
            task = asyncio.create_task(write_in_a_block(Session, "in a block of another task"))
            await task
        assert await stored(engine) == {"in a block of another task"}

    async def test_with_one_around_it(self, Session: Sessions, engine: AsyncEngine) -> None:
        log = Log()
        async with scope(commit=True):
            around = await Session.begin_nested()
            async with Session.begin_nested():
                await write(Session, "lost")
                log.watch()
                await around.rollback()
            assert log == ["rolled back"]
            await write(Session, "kept")
        assert await stored(engine) == {"kept"}
        assert log == ["rolled back"]


async def write_in_a_block(Session: Sessions, line: str) -> None:
    async with scope(propagation="nested"):
        await write(Session, line)
