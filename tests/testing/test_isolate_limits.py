"""isolate() never gives a wrong result: what it cannot do it says, and what to do instead."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from notes import Note, read, sessions_of, stored, write
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from scoped_async import AsyncScopedSession, ScopeError, create_task_group, scope
from scoped_async.testing import isolate

Proxy = AsyncScopedSession[AsyncSession]


async def terminate(engine: AsyncEngine, connection: AsyncConnection) -> None:
    """Let the server end a connection."""
    pid = await connection.scalar(select(func.pg_backend_pid()))
    async with engine.connect() as other:
        await other.execute(select(func.pg_terminate_backend(pid, 5000)))


STACK = "savepoints are a stack.*clone_database"


class TestOneUnitOfWorkAtATime:
    """A scope that is opened while another has work on the connection is refused at its first statement."""

    async def test_one_that_is_nested_in_the_other(self, session: Proxy, notes: AsyncEngine) -> None:
        async with isolate(session, notes):
            async with scope(commit=True, name="outer"):
                session.add(Note(id=1))
                await session.flush()
                with pytest.raises(ScopeError, match=rf"the scope write, .*while the scope outer, .*{STACK}"):
                    await write(session, 2)
            assert await read(session) == [1]

    async def test_one_that_runs_beside_the_other(self, session: Proxy, notes: AsyncEngine) -> None:
        """Before anything reaches the driver, which may be in the middle of the other's statement."""
        async with isolate(session, notes):
            outcomes = await asyncio.gather(*(write(session, id) for id in range(5)), return_exceptions=True)
            refused = [outcome for outcome in outcomes if outcome is not None]
            assert len(refused) == 4
            for outcome in refused:
                with pytest.raises(ScopeError, match=STACK):
                    raise outcome
            assert len(await read(session)) == 1
        assert await stored(notes) == 0

    async def test_the_children_of_a_task_group(self, session: Proxy, notes: AsyncEngine) -> None:
        async def child(id: int) -> None:
            session.add(Note(id=id))

        async def fan_out() -> None:
            async with create_task_group(commit=True) as group:
                for id in range(3):
                    group.create_task(child(id))

        async with isolate(session, notes):
            with pytest.RaisesGroup(*[pytest.RaisesExc(ScopeError, match=STACK)] * 2):
                await fan_out()

    async def test_two_sessions_of_one_scope(self, session: Proxy, notes: AsyncEngine) -> None:
        """Without isolate() they have a connection each."""
        other = sessions_of(notes)
        async with isolate((session, notes), (other, notes)), scope():
            await session.scalars(select(Note))
            with pytest.raises(ScopeError, match=STACK):
                await other.scalars(select(Note))

    async def test_looking_at_the_bind_is_no_statement(self, session: Proxy, notes: AsyncEngine) -> None:
        async with isolate(session, notes), scope():
            await session.scalars(select(Note))
            async with scope():
                assert session.get_bind().dialect.name == notes.dialect.name
            async with session.begin_nested():
                session.add(Note(id=1))

    async def test_a_scope_that_waits_with_its_first_statement_is_none_at_all(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with isolate(session, notes):
            async with scope(commit=True):
                session.add(Note(id=1))
                await write(session, 2)
            assert await read(session) == [1, 2]


class TestTheConnection:
    """When it is lost, or ended by hand, the transaction of the test is gone, and nothing goes on without."""

    @pytest.mark.parametrize(
        ("end", "how"),
        [
            (AsyncConnection.invalidate, "was terminated"),
            (AsyncConnection.rollback, "was rolled back by hand"),
            (AsyncConnection.close, "was (rolled back|closed) by hand"),
        ],
    )
    async def test_a_scope_that_comes_afterwards_is_refused(
        self,
        session: Proxy,
        notes: AsyncEngine,
        end: Callable[[AsyncConnection], Awaitable[None]],
        how: str,
    ) -> None:
        async with isolate(session, notes) as connection:
            await write(session, 1)
            await end(connection)
            with pytest.raises(ScopeError, match=rf"{how}.*so the scope write, .*clone_database"):
                await write(session, 2)
        assert await stored(notes) == 0

    async def test_it_cannot_be_committed(self, session: Proxy, notes: AsyncEngine) -> None:
        async with isolate(session, notes) as connection:
            await write(session, 1)
            with pytest.raises(ScopeError, match="cannot be committed"):
                await connection.commit()
            with pytest.raises(ScopeError, match="was committed by hand"):
                await write(session, 2)
        assert await stored(notes) == 0

    @pytest.mark.parametrize("statement", ["ROLLBACK", " commit work", "-- all\nEND"])
    async def test_nor_ended_by_a_statement(self, statement: str, session: Proxy, notes: AsyncEngine) -> None:
        async with isolate(session, notes):
            await write(session, 1)
            async with scope():
                with pytest.raises(ScopeError, match=r"Use Session.commit\(\) or Session.rollback\(\)"):
                    await session.execute(text(statement))
            await write(session, 2)
        assert await stored(notes) == 0

    async def test_the_server_ends_it(self, postgres_notes: AsyncEngine) -> None:
        session = sessions_of(postgres_notes)

        @scope(commit=True)
        async def work(connection: AsyncConnection) -> None:
            session.add(Note(id=1))
            await session.flush()
            await terminate(postgres_notes, connection)

        async with isolate(session, postgres_notes) as connection:
            with pytest.raises(DBAPIError):
                await work(connection)
            with pytest.raises(ScopeError, match=r"was terminated, .* or the server"):
                await read(session)
        assert await stored(postgres_notes) == 0

    async def test_the_server_ends_it_and_nobody_notices(self, postgres_notes: AsyncEngine) -> None:
        async def run() -> None:
            async with isolate(sessions_of(postgres_notes), postgres_notes) as connection:
                await terminate(postgres_notes, connection)

        with pytest.raises(DBAPIError):
            await run()

    async def test_a_cancelled_statement_takes_it_along(self, postgres_notes: AsyncEngine) -> None:
        """As it does without isolate(), only that there the next scope gets another."""
        session = sessions_of(postgres_notes)
        async with isolate(session, postgres_notes):
            async with scope():
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(session.execute(text("SELECT pg_sleep(60)")), 0.05)
            with pytest.raises(ScopeError, match="was terminated, by a cancelled statement"):
                await read(session)
        assert await stored(postgres_notes) == 0


class TestTheBlock:
    """Entered before the scopes, left after them."""

    async def test_entered_when_the_scope_has_its_session(self, session: Proxy, notes: AsyncEngine) -> None:
        async with scope():
            await session.scalars(select(Note))
            with pytest.raises(
                ScopeError, match=r"comes too late: the scope .*, opened at .* before its session"
            ):
                async with isolate(session, notes):
                    pass

    async def test_left_while_a_scope_has_work(self, session: Proxy, notes: AsyncEngine) -> None:
        async def leave_early() -> None:
            async with isolate(session, notes):
                await late.__aenter__()
                session.add(Note(id=1))
                await session.flush()

        late = scope(name="late")
        with pytest.raises(ScopeError, match=r"left while the scope late, opened at .* still has work"):
            await leave_early()
        await late.__aexit__(None, None, None)
        assert await stored(notes) == 0

    async def test_what_the_body_raises_comes_out_with_that_as_a_note(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async def leave_early() -> None:
            async with isolate(session, notes):
                await late.__aenter__()
                await session.scalars(select(Note))
                raise LookupError

        late = scope(name="late")
        with pytest.raises(LookupError) as raised:
            await leave_early()
        assert "left while the scope late" in raised.value.__notes__[0]
        await late.__aexit__(None, None, None)

    async def test_a_session_that_was_made_within_is_refused_afterwards(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            async with isolate(session, notes):
                await session.scalars(select(Note))
                await session.rollback()
            with pytest.raises(ScopeError, match="has been left"):
                await session.scalars(select(Note))

    async def test_nested_while_a_scope_has_work(self, session: Proxy, notes: AsyncEngine) -> None:
        async with isolate(session, notes), scope(name="outer"):
            await session.scalars(select(Note))
            with pytest.raises(
                ScopeError, match=r"within isolate.* the scope outer, .* Enter it before the scope"
            ):
                async with isolate(sessions_of(notes), notes):
                    pass

    async def test_nested_and_left_in_another_order(self, notes: AsyncEngine) -> None:
        session = sessions_of(notes)
        factory = session.session_factory
        first, second = isolate(session, notes), isolate(session, notes)
        await first.__aenter__()
        await second.__aenter__()
        with pytest.raises(ScopeError, match="another order"):
            await first.__aexit__(None, None, None)
        with pytest.raises(ScopeError, match="another order"):
            await second.__aexit__(None, None, None)
        assert session.session_factory is factory
        await write(session, 1)
        assert await stored(notes) == 1
