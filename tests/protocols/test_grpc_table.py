"""Every promise of the ASGI middleware that has a meaning in gRPC, for each kind of call and of handler."""

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode
from protocol_database import Database
from sqlalchemy import event, func, orm, select, text
from sqlalchemy.exc import DBAPIError

from entries import Entry, break_the_commit, write
from grpc_calls import KINDS, Service, outcome
from scoped_async import current_scope, scope
from scoped_async.grpc import ScopeInterceptor
from watch import until

every_kind = pytest.mark.parametrize("kind", KINDS)
DONE = (StatusCode.OK, "done")


@every_kind
class TestSuccess:
    """OK: COMMIT, then the status."""

    async def test_it_is_committed_before_the_status(self, database: Database, kind: str) -> None:
        ended: list[bool] = []

        async def work(context: Any) -> None:
            await write(database.Session, "a")
            current_scope().after_commit(lambda: ended.append(context.done()))

        assert await Service(kind, KINDS[kind](work)).call() == DONE
        assert ended == [False]
        assert await database.stored() == {"a"}

    async def test_nothing_is_touched(self, database: Database, kind: str) -> None:
        """A handler that leaves the database alone gets no session and no connection."""
        touched: list[object] = []
        event.listen(database.engine.sync_engine, "checkout", lambda *_: touched.append("connection"))

        class Counted(orm.Session):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                touched.append("session")

        database.Session.configure(sync_session_class=Counted)

        async def work(context: Any) -> None: ...

        assert await Service(kind, KINDS[kind](work)).call() == DONE
        assert touched == []


@every_kind
class TestFailedCommit:
    """A commit that fails: the status is not OK, and tells nothing of the database."""

    async def assert_refused(self, database: Database, service: Service, code: StatusCode) -> None:
        status, details = await service.call()
        assert status is code
        assert details is not None
        assert not any(word in details for word in ("SQL", "INSERT", "entries", "COMMIT", "asyncpg"))
        assert "a" not in await database.stored()

    async def test_by_a_constraint(
        self, database: Database, caplog: pytest.LogCaptureFixture, kind: str
    ) -> None:
        """What it was is in grpc's log."""

        async def work(context: Any) -> None:
            await write(database.Session, "a")
            await break_the_commit(database.Session)

        await self.assert_refused(database, Service(kind, KINDS[kind](work)), StatusCode.INTERNAL)
        assert "ForeignKeyViolationError" in caplog.text

    async def test_by_a_serialization_failure(self, database: Database, kind: str) -> None:
        """Two transactions that each count and add: PostgreSQL lets one commit; the other may try again."""

        async def count_and_write(name: str) -> None:
            await database.Session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
            await database.Session.scalar(select(func.count()).select_from(Entry))
            await write(database.Session, name)

        async def work(context: Any) -> None:
            await count_and_write("a")
            async with scope(commit=True):
                await count_and_write("b")

        await self.assert_refused(database, Service(kind, KINDS[kind](work)), StatusCode.ABORTED)
        assert await database.stored() == {"b"}

    async def test_by_a_server_that_is_gone(self, database: Database, kind: str) -> None:
        async def work(context: Any) -> None:
            await write(database.Session, "a")
            await database.kill()

        await self.assert_refused(database, Service(kind, KINDS[kind](work)), StatusCode.ABORTED)

    async def test_that_the_server_made_a_rollback(self, database: Database, kind: str) -> None:
        """PostgreSQL answers COMMIT with ROLLBACK, and no error, once a statement has failed."""

        async def work(context: Any) -> None:
            await write(database.Session, "a")
            with pytest.raises(DBAPIError):
                await database.Session.execute(text("SELECT 1 / 0"))

        await self.assert_refused(database, Service(kind, KINDS[kind](work)), StatusCode.INTERNAL)


@every_kind
class TestNoCommit:
    """A status that the policy does not commit: rolled back before it is sent. An exception: raised on."""

    @pytest.mark.parametrize("code", [StatusCode.NOT_FOUND, StatusCode.CANCELLED, 5])
    async def test_of_a_status_that_is_set(self, database: Database, kind: str, code: Any) -> None:
        """As a ``StatusCode`` or, as grpc allows, as its number."""
        ended: list[bool] = []

        async def work(context: Any) -> None:
            await write(database.Session, "a")
            current_scope().after_rollback(lambda: ended.append(context.done()))
            context.set_code(code)
            context.set_details("there is none")

        status, details = await Service(kind, KINDS[kind](work)).call()
        assert code in (status, status.value[0])
        assert details == "there is none"
        assert (ended, await database.stored()) == ([False], set())

    @pytest.mark.parametrize("swallowed", [False, True])
    async def test_of_an_abort(self, database: Database, kind: str, swallowed: bool) -> None:
        """Also when the handler swallows its error, and the policy would commit this status."""

        async def work(context: Any) -> None:
            await write(database.Session, "a")
            try:
                await context.abort(StatusCode.NOT_FOUND, "there is none")
            except grpc.aio.AbortError:
                if not swallowed:
                    raise

        policy = ScopeInterceptor(commit=lambda code: True)
        service = Service(kind, KINDS[kind](work), [policy])
        assert await service.call() == (StatusCode.NOT_FOUND, "there is none")
        assert await database.stored() == set()

    async def test_by_a_function_of_the_status(self, database: Database, kind: str) -> None:
        async def work(context: Any) -> None:
            await write(database.Session, code.name)
            context.set_code(code)

        policy = ScopeInterceptor(commit=lambda code: code is StatusCode.NOT_FOUND)
        for code in (StatusCode.NOT_FOUND, StatusCode.OK):
            assert (await Service(kind, KINDS[kind](work), [policy]).call())[0] is code
        assert await database.stored() == {"NOT_FOUND"}

    async def test_of_an_unhandled_exception(self, database: Database, kind: str) -> None:
        async def work(context: Any) -> None:
            await write(database.Session, "a")
            raise ValueError("a mistake of the handler")

        status, details = await Service(kind, KINDS[kind](work)).call()
        assert (status, "a mistake of the handler" in str(details)) == (StatusCode.UNKNOWN, True)
        assert await database.stored() == set()

    async def test_of_what_cannot_be_serialized(self, database: Database, kind: str) -> None:
        def refuse(message: object) -> bytes:
            raise TypeError("not a message")

        async def work(context: Any) -> None:
            await write(database.Session, "a")

        status, _ = await Service(kind, KINDS[kind](work), serializer=refuse).call()
        assert status is not StatusCode.OK
        await back_in_the_pool(database)
        assert await database.stored() == set()


@every_kind
class TestDisconnect:
    """The client goes away, or its time is up: rolled back, the connection back in the pool."""

    @pytest.mark.parametrize("swallowed", [False, True])
    async def test_cancelled(self, database: Database, kind: str, swallowed: bool) -> None:
        """Also when the handler swallows the cancellation, and goes on to a good end."""
        working = asyncio.Event()

        async def work(context: Any) -> None:
            await write(database.Session, "a")
            current_scope().after_commit(committed.append, 1)
            working.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not swallowed:
                    raise

        committed: list[int] = []
        service = Service(kind, KINDS[kind](work))
        async with service.serve() as call:
            calling = asyncio.create_task(outcome(call()))
            await working.wait()
            calling.cancel()
            await service.watch.end()
            await asyncio.wait([calling])
            await back_in_the_pool(database)
        assert (committed, await database.stored()) == ([], set())

    async def test_expired(self, database: Database, kind: str) -> None:
        async def work(context: Any) -> None:
            await write(database.Session, "a")
            await asyncio.Event().wait()

        service = Service(kind, KINDS[kind](work))
        assert (await service.call(timeout=0.5))[0] is StatusCode.DEADLINE_EXCEEDED
        assert (database.out, await database.stored()) == (0, set())


async def back_in_the_pool(database: Database) -> None:
    """Return when the event loop has closed the generator that grpc has dropped."""

    async def none_is_out() -> bool:
        return database.out == 0

    await until(none_is_out)
