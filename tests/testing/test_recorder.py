"""recorder(): what was sent to a database and how long a connection was held for it, by scope."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest
from notes import Note, sessions_of, write
from sqlalchemy import func, make_url, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from scoped_async import AsyncScopedSession, scope
from scoped_async.testing import Recording, isolate, recorder

Proxy = AsyncScopedSession[AsyncSession]


@pytest.fixture(params=["alone", "isolated"])
async def recorded(request: pytest.FixtureRequest, session: Proxy, notes: AsyncEngine) -> Any:
    """Runs during the test, once with the pool's connections and once under `isolate`, which look alike."""
    if request.param == "isolated":
        async with isolate(session, notes):
            with recorder(notes) as recording:
                yield recording
    else:
        with recorder(notes) as recording:
            yield recording


class TestWhatIsRecorded:
    """Statements, the ends of transactions, and connections, whether isolated or not."""

    async def test_a_unit_of_work(self, session: Proxy, recorded: Recording) -> None:
        """This endpoint makes three statements and holds a connection for one transaction."""
        async with scope(commit=True, name="endpoint"):
            await session.scalars(select(Note))
            session.add(Note(id=1))
            await session.flush()
            await session.scalars(select(Note))
        assert [statement.sql.split()[0] for statement in recorded.statements] == [
            "SELECT",
            "INSERT",
            "SELECT",
        ]
        assert (recorded.commits, recorded.rollbacks) == (1, 0)
        [connection] = recorded.connections
        assert connection.transactions == 1
        assert connection.returned
        assert connection.seconds >= sum(statement.seconds for statement in recorded.statements) > 0

    async def test_one_that_is_rolled_back(self, session: Proxy, recorded: Recording) -> None:
        async with scope():
            await session.scalars(select(Note))
        assert (recorded.commits, recorded.rollbacks) == (0, 1)

    async def test_one_that_does_nothing(self, session: Proxy, recorded: Recording) -> None:
        async with scope(commit=True):
            assert not session.new
        assert recorded == Recording()

    async def test_several_transactions_of_one_scope(self, session: Proxy, recorded: Recording) -> None:
        async with scope():
            for id in range(3):
                session.add(Note(id=id))
                await session.commit()
        assert (recorded.commits, recorded.rollbacks) == (3, 0)
        assert [connection.transactions for connection in recorded.connections] == [1, 1, 1]

    async def test_savepoints_are_neither_statements_nor_transactions(
        self, postgres_notes: AsyncEngine
    ) -> None:
        session = sessions_of(postgres_notes)
        with recorder(postgres_notes) as recorded:
            async with scope(commit=True):
                session.add(Note(id=1))
                async with session.begin_nested():
                    session.add(Note(id=2))
        assert len(recorded.statements) == 2
        assert (recorded.commits, recorded.rollbacks) == (1, 0)

    async def test_a_statement_that_fails(self, session: Proxy, recorded: Recording) -> None:
        async with scope():
            with pytest.raises(DBAPIError):
                await session.execute(text("SELECT * FROM nowhere"))
        [statement] = recorded.statements
        assert statement.failed
        assert statement.seconds > 0
        assert (recorded.commits, recorded.rollbacks) == (0, 1)

    async def test_a_commit_that_fails_is_none(self, postgres_notes: AsyncEngine) -> None:
        session = sessions_of(postgres_notes)
        with recorder(postgres_notes) as recorded:
            with pytest.raises(IntegrityError):
                await write(session, 1, answers=99)
            async with isolate(session, postgres_notes):
                with pytest.raises(IntegrityError):
                    await write(session, 1, answers=99)
        assert len(recorded.of("write").statements) == 2
        assert recorded.commits == 0

    @pytest.mark.parametrize("in_use", ["pool", "isolated"])
    async def test_a_statement_that_is_cancelled(self, postgres_notes: AsyncEngine, in_use: str) -> None:
        """Its connection is gone, which counts as a rollback; the scope ends as without a recorder."""
        session = sessions_of(postgres_notes)

        async def work() -> AsyncSession:
            async with scope():
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(session.execute(text("SELECT pg_sleep(60)")), 0.05)
                return session()

        async with AsyncExitStack() as stack:
            if in_use == "isolated":
                await stack.enter_async_context(isolate(session, postgres_notes))
            recorded = stack.enter_context(recorder(postgres_notes))
            assert not (await work()).in_transaction()
            assert [statement.failed for statement in recorded.statements] == [True]
            assert (recorded.commits, recorded.rollbacks) == (0, 1)
            [connection] = recorded.connections
            assert (connection.transactions, connection.returned) == (1, True)

    async def test_a_connection_that_the_server_ends(self, postgres_notes: AsyncEngine) -> None:
        """Before, in and after a transaction: the events say what they say without a recorder."""
        with recorder(postgres_notes) as recorded:
            async with postgres_notes.connect() as connection:
                pid = await connection.scalar(select(func.pg_backend_pid()))
                async with postgres_notes.connect() as other:
                    await other.execute(select(func.pg_terminate_backend(pid, 5000)))
                with pytest.raises(DBAPIError):
                    await connection.commit()
                await connection.rollback()
                assert await connection.scalar(select(1)) == 1
        assert (recorded.commits, recorded.rollbacks) == (0, 3)
        assert [(held.transactions, held.returned) for held in recorded.connections] == [
            (1, True),
            (1, True),
            (1, True),
        ]

    async def test_what_began_before(self, session: Proxy, notes: AsyncEngine) -> None:
        """Its end is known, but not since when the connection was held."""
        async with scope(commit=True):
            await session.scalars(select(Note))
            with recorder(notes) as recorded:
                await session.commit()
        assert (recorded.commits, recorded.connections) == (1, [])
        async with notes.connect() as connection:
            with recorder(notes) as recorded:
                await connection.execute(select(Note))
                await connection.rollback()
        assert (recorded.rollbacks, recorded.connections) == (1, [])

    async def test_a_database_that_is_not_there(self, postgres_url: str) -> None:
        engine = create_async_engine(make_url(postgres_url).set(database="nowhere"))
        refused = pytest.raises(Exception, match="nowhere")  # SQLAlchemy 2.0 raises the driver's own
        with recorder(engine) as recorded, refused:
            await engine.connect()
        assert recorded == Recording()

    async def test_a_connection_that_is_still_out(self, notes: AsyncEngine) -> None:
        with recorder(notes) as recorded:
            connection = await notes.connect()
        assert [(held.returned, held.seconds > 0) for held in recorded.connections] == [(False, True)]
        await connection.close()


class TestByScope:
    """Each entry says in which scope it happened."""

    async def test_the_part_of_one_scope_of_all_of_a_name_and_of_none(
        self, session: Proxy, notes: AsyncEngine, recorded: Recording
    ) -> None:
        async with scope(name="first") as first:
            await session.scalars(select(Note))
        for _ in range(2):
            async with scope(name="others", commit=True) as last:
                await session.scalars(select(Note))
        async with notes.connect() as connection:
            await connection.execute(select(Note))
        assert len(recorded.of(first).statements) == len(recorded.of("first").statements) == 1
        assert (len(recorded.of("others").statements), len(recorded.of(last).statements)) == (2, 1)
        assert (recorded.of("others").commits, recorded.of("first").rollbacks) == (2, 1)
        assert len(recorded.of(None).statements) == 1
        [statement] = recorded.of("first").statements
        assert statement.place is not None
        assert statement.place.opened_at.startswith("test_recorder.py:")

    async def test_scopes_at_the_same_time(self, postgres_notes: AsyncEngine) -> None:
        session = sessions_of(postgres_notes)
        with recorder(postgres_notes) as recorded:
            await asyncio.gather(*(write(session, id) for id in range(4)))
        assert len(recorded.of("write").connections) == recorded.commits == 4
        assert all(connection.transactions == 1 for connection in recorded.connections)

    async def test_it_reads_as_text(self, session: Proxy, recorded: Recording) -> None:
        async with scope(name="endpoint", commit=True):
            await session.execute(text("SELECT   1"))
        first, second = str(recorded).splitlines()
        assert first.startswith("endpoint: 1 statements, 1 commits, 0 rollbacks, 1 connections held for ")
        assert second.startswith("  SELECT 1 (")


class TestSlips:
    """It takes async engines, and is asked for scopes."""

    @pytest.mark.parametrize("wrong", ["nothing", "proxy", "sync engine"])
    def test_what_is_no_engine(self, sqlite_notes: AsyncEngine, wrong: str) -> None:
        engines: Any = {
            "nothing": [],
            "proxy": [sessions_of(sqlite_notes)],
            "sync engine": [sqlite_notes, sqlite_notes.sync_engine],
        }
        said = r"recorder\(\) takes async engines, `recorder\(engine\)`, and not "
        with pytest.raises(TypeError, match=said), recorder(*engines[wrong]):
            pass

    def test_what_is_no_scope(self, sqlite_notes: AsyncEngine) -> None:
        session: Any = sessions_of(sqlite_notes)
        with pytest.raises(TypeError, match=r"of\(\) takes a scope, the name of some, or None, and not Asy"):
            Recording().of(session)

    def test_a_name_of_none_is_the_name_of_scopes_that_did_nothing(self) -> None:
        """The recorder cannot tell the two apart: an endpoint that sends nothing is fine to assert."""
        assert Recording().of("no such scope") == Recording()


async def test_it_costs_nothing_when_not_in_use(notes: AsyncEngine) -> None:
    """Every listener is gone afterwards."""

    def listeners() -> list[int]:
        names = ("before_cursor_execute", "after_cursor_execute", "commit", "rollback")
        return [
            *(len(getattr(notes.sync_engine.dispatch, name)) for name in names),
            *(len(getattr(notes.pool.dispatch, name)) for name in ("checkout", "checkin")),
            len(notes.dialect.dispatch.handle_error),
            len(Session().dispatch.after_begin),
        ]

    before = listeners()
    with recorder(notes):
        assert listeners() != before
    assert listeners() == before
