"""Concurrency: one operation at a time on a session (law 14), on its own event loop (law 15)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Session as SyncSession

from scoped_async import (
    AsyncScopedSession,
    ConcurrentUseError,
    ForeignThreadError,
    current_scope,
    scope,
)
from watch import Gate, Item, Proxy, Watching, answer, names, one_connection, out, schema, silence

SECOND_OPERATIONS: dict[str, Callable[[Proxy], Awaitable[Any]]] = {
    "execute": lambda Session: Session.execute(answer(2)),
    "scalar": lambda Session: Session.scalar(answer(2)),
    "scalars": lambda Session: Session.scalars(answer(2)),
    "get": lambda Session: Session.get(Item, 1),
    "get_one": lambda Session: Session.get_one(Item, 1),
    "merge": lambda Session: Session.merge(Item(id=1, name="a")),
    "refresh": lambda Session: Session.refresh(Item(id=1, name="a")),
    "delete": lambda Session: Session.delete(Item(id=1, name="a")),
    "flush": lambda Session: Session.flush(),
    "connection": lambda Session: Session.connection(),
    "run_sync": lambda Session: Session.run_sync(SyncSession.flush),
    "stream": lambda Session: Session.stream(answer(2)),
    "stream_scalars": lambda Session: Session.stream_scalars(answer(2)),
    "begin_nested": lambda Session: Session.begin_nested().__aenter__(),
    "commit": lambda Session: Session.commit(),
    "rollback": lambda Session: Session.rollback(),
    "close": lambda Session: Session.close(),
    "aclose": lambda Session: Session.aclose(),
    "reset": lambda Session: Session.reset(),
    "invalidate": lambda Session: Session.invalidate(),
    "remove": lambda Session: Session.remove(),
    "scope.commit": lambda Session: current_scope().commit(),
    "scope.rollback": lambda Session: current_scope().rollback(),
    "scope.release": lambda Session: current_scope().release(),
    "the entry of a nested block": lambda Session: scope(propagation="nested").__aenter__(),
}


@pytest.fixture
def sent(engine: AsyncEngine) -> list[str]:
    """The statements that reach the driver."""
    statements: list[str] = []

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(statement)

    return statements


class TestLaw14OneOperationAtATime(Watching):
    """A second operation that another task starts while the first is in flight is refused."""

    @pytest.mark.parametrize("operation", SECOND_OPERATIONS)
    async def test_every_operation_is_refused_before_anything_reaches_the_driver(
        self, Session: Proxy, gate: Gate, sent: list[str], operation: str
    ) -> None:
        async with scope():
            first = asyncio.create_task(Session.scalar(gate.passing()), name="first")
            await gate.waiting()
            already = len(sent)
            with pytest.raises(ConcurrentUseError):
                await SECOND_OPERATIONS[operation](Session)
            assert len(sent) == already
            await gate.open()
            assert await first == 7
            assert await Session.scalar(answer(3)) == 3

    async def test_the_error_names_both_tasks_and_both_operations(self, Session: Proxy, gate: Gate) -> None:
        async with scope():
            first = asyncio.create_task(Session.scalar(gate.passing()), name="reads the balance")
            await gate.waiting()
            second = asyncio.create_task(Session.get(Item, 1), name="reads the item")
            message = "'reads the balance' is in scalar\\(\\).*'reads the item' cannot start get\\(\\)"
            with pytest.raises(ConcurrentUseError, match=message):
                await second
            block = asyncio.create_task(Session.begin_nested().__aenter__(), name="sets a savepoint")
            with pytest.raises(ConcurrentUseError, match="cannot start begin_nested\\(\\)\\. "):
                await block
            await gate.open()
            await first

    @pytest.mark.parametrize("pool", ["cold", "warm", "pre_ping"])
    async def test_gather_on_one_session_is_refused_a_hundred_times_out_of_a_hundred(
        self, postgres_url: str, pool: str
    ) -> None:
        async with schema(postgres_url) as name, silence():
            for _ in range(100):
                engine = one_connection(postgres_url, name, pool_pre_ping=pool == "pre_ping")
                Session = AsyncScopedSession(async_sessionmaker(engine))
                if pool != "cold":
                    async with engine.connect():
                        pass
                async with scope():
                    first: Any
                    second: Any
                    first, second = await asyncio.gather(
                        Session.execute(select(1)), Session.execute(answer(2)), return_exceptions=True
                    )
                    assert first.scalar_one() == 1
                    assert isinstance(second, ConcurrentUseError)
                assert out(engine) == 0
                await engine.dispose()

    async def test_a_fetch_from_a_stream_and_an_execute_a_hundred_times_out_of_a_hundred(
        self, Session: Proxy
    ) -> None:
        series = select(Item).from_statement(select(Item))
        async with scope(commit=True):
            Session.add_all([Item(id=number, name=f"{number}") for number in range(200)])
        for _ in range(100):
            async with scope():
                stream = await Session.stream_scalars(series.execution_options(yield_per=1))
                first, second = await asyncio.gather(
                    stream.fetchmany(150), Session.execute(answer(2)), return_exceptions=True
                )
                assert isinstance(second, ConcurrentUseError)
                assert not isinstance(first, BaseException)
                assert len(first) == 150
                execute, fetch = await asyncio.gather(
                    Session.execute(answer(2)), stream.fetchmany(150), return_exceptions=True
                )
                assert isinstance(fetch, ConcurrentUseError)
                assert not isinstance(execute, BaseException)
                assert len(await stream.all()) == 50

    async def test_every_way_to_fetch_from_a_stream(self, Session: Proxy, gate: Gate) -> None:
        """What is derived from a stream, and the loop over it, too."""
        async with scope():
            stream = await Session.stream(select(1))
            scalars = await Session.stream_scalars(select(1))
            first = asyncio.create_task(Session.scalar(gate.passing()))
            await gate.waiting()
            partitions = stream.partitions(1)
            for fetch in (
                stream.fetchone, stream.fetchmany, stream.all, stream.first, stream.one, stream.one_or_none,
                stream.scalar, stream.scalar_one, stream.scalar_one_or_none, stream.fetchall, stream.freeze,
                stream.close, stream.__anext__, stream.mappings().all, stream.scalars().all, scalars.all,
                scalars.first, scalars.close, partitions.__anext__,
                stream.unique().all, stream.columns(0).all, stream.yield_per(1).all,
            ):  # fmt: skip
                with pytest.raises(ConcurrentUseError):
                    await fetch()
            await gate.open()
            await first
            assert (await stream.scalars().all(), await scalars.all()) == ([1], [1])

    async def test_the_enter_and_the_exit_of_begin(self, Session: Proxy, gate: Gate) -> None:
        async with scope():
            transaction = Session.begin()
            await transaction.__aenter__()
            first = asyncio.create_task(Session.scalar(gate.passing()))
            await gate.waiting()
            with pytest.raises(ConcurrentUseError):
                await transaction.__aexit__(None, None, None)
            with pytest.raises(ConcurrentUseError):
                await transaction.commit()
            with pytest.raises(ConcurrentUseError):
                await transaction.rollback()
            await gate.open()
            await first
            Session.add(Item(id=1, name="a"))
            await transaction.__aexit__(None, None, None)
            opening = asyncio.create_task(Session.scalar(gate.passing()))
            await opening
            await Session.rollback()
        assert await names(Session) == ["a"]

    async def test_a_child_may_use_the_session_while_its_parent_waits(self, Session: Proxy) -> None:
        async def child() -> Any:
            return await Session.scalar(answer(2))

        async with scope(), asyncio.timeout(30):
            assert await Session.scalar(select(1)) == 1
            assert await asyncio.create_task(child()) == 2
            assert await asyncio.wait_for(child(), 30) == 2

    async def test_one_task_may_nest_operations(self, Session: Proxy) -> None:
        async with scope():
            assert await Session.run_sync(lambda session: session.scalar(select(1))) == 1

    async def test_other_scopes_are_not_concerned(self, Session: Proxy) -> None:
        async def child(number: int) -> Any:
            async with scope():
                return await Session.scalar(answer(number))

        assert await asyncio.gather(*map(child, range(10))) == list(range(10))


class TestLaw15ItsOwnLoopOnly(Watching):
    """From another thread or another loop: `ForeignThreadError`, which says which."""

    @pytest.mark.parametrize("used", [False, True], ids=["not used yet", "used already"])
    async def test_methods_and_attributes_from_a_thread(self, Session: Proxy, used: bool) -> None:
        def in_thread() -> None:
            for use in (
                lambda: Session.add(Item(id=1, name="a")), lambda: Session.new, lambda: Session.is_active,
                lambda: Session.in_transaction(), lambda: Session(), lambda: Session.begin(),
                lambda: Item(id=1, name="a") in Session, lambda: list(Session), lambda: Session.registry(),
                lambda: Session.registry.clear(), lambda: setattr(Session, "autoflush", False),
                lambda: current_scope().after_commit(print),
            ):  # fmt: skip
                with pytest.raises(ForeignThreadError, match=r"thread '.*', which runs no event loop"):
                    use()

        async with scope():
            if used:
                await Session.scalar(select(1))
            await asyncio.to_thread(in_thread)
            assert not Session.new
            assert Session.autoflush

    @pytest.mark.parametrize("used", [False, True], ids=["not used yet", "used already"])
    async def test_operations_from_another_loop(self, Session: Proxy, used: bool) -> None:
        async def in_other_loop() -> None:
            for operation in SECOND_OPERATIONS.values():
                with pytest.raises(ForeignThreadError, match="event loop <"):
                    await operation(Session)
            async with scope() as own:
                assert current_scope() is own

        async with scope():
            if used:
                await Session.scalar(select(1))
            await asyncio.to_thread(asyncio.run, in_other_loop())
            assert await Session.scalar(select(1)) == 1

    async def test_a_stream_is_not_fetched_from_in_another_loop(self, Session: Proxy) -> None:
        async with scope():
            stream = await Session.stream(select(1))

            async def in_other_loop() -> None:
                with pytest.raises(ForeignThreadError):
                    await stream.all()

            await asyncio.to_thread(asyncio.run, in_other_loop())
            assert await stream.scalars().all() == [1]
