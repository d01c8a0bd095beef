"""isolate(): whatever an application's sessions do is rolled back, and they cannot tell."""

import asyncio
import gc
import weakref

import pytest
from notes import Note, read, sessions_of, stored, write
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from scoped_async import (
    AsyncScopedSession,
    RollbackOnlyError,
    ScopeError,
    create_task_group,
    current_scope,
    scope,
)
from scoped_async.testing import isolate

Proxy = AsyncScopedSession[AsyncSession]


class TestRollback:
    """Until it is left, every session joins one outer transaction, which is rolled back."""

    async def test_what_was_committed_is_seen_by_later_scopes_and_gone_afterwards(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with isolate(session, notes):
            await write(session, 1)
            await write(session, 2)
            assert await read(session) == [1, 2]
        assert await read(session) == []
        assert await stored(notes) == 0

    async def test_whatever_the_body_raises(self, session: Proxy, notes: AsyncEngine) -> None:
        async def run() -> None:
            async with isolate(session, notes):
                await write(session, 1)
                raise LookupError

        with pytest.raises(LookupError):
            await run()
        assert await stored(notes) == 0

    async def test_also_when_the_test_is_cancelled(self, session: Proxy, notes: AsyncEngine) -> None:
        written = asyncio.Event()

        async def run() -> None:
            async with isolate(session, notes):
                await write(session, 1)
                written.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(run())
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await stored(notes) == 0

    async def test_the_connection_that_is_yielded_sees_what_the_sessions_see(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with isolate(session, notes) as connection:
            await connection.execute(insert(Note).values(id=1))
            assert await read(session) == [1]
            await write(session, 2)
            assert list(await connection.scalars(select(Note.id).order_by(Note.id))) == [1, 2]
        assert await stored(notes) == 0

    async def test_the_factory_is_the_users_own_before_and_after_and_can_be_configured_within(
        self, notes: AsyncEngine
    ) -> None:
        factory = async_sessionmaker(notes)
        session = AsyncScopedSession(factory)
        async with isolate(session, notes):
            session.configure(info={"tenant": "a"})
            assert session.session_factory.kw["info"] == {"tenant": "a"}
            async with scope():
                assert session.info == {"tenant": "a"}
        assert session.session_factory is factory


class TestAsInProduction:
    """The application's own commits and rollbacks behave as without it."""

    async def test_a_scope_that_does_not_commit_is_rolled_back(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with isolate(session, notes):
            await write(session, 1)
            async with scope():
                session.add(Note(id=2))
                await session.flush()
            assert await read(session) == [1]

    async def test_a_commit_in_the_middle_survives_a_rollback_after_it(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with isolate(session, notes):
            async with scope():
                session.add(Note(id=1))
                await session.commit()
                session.add(Note(id=2))
                await session.flush()
                await session.rollback()
            assert await read(session) == [1]

    async def test_a_failed_statement_spoils_its_own_scope_only(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        async with isolate(session, notes):
            await write(session, 1)
            with pytest.raises(IntegrityError):
                await write(session, 1)
            await write(session, 2)
            assert await read(session) == [1, 2]

    async def test_callbacks_run_by_the_outcome(self, session: Proxy, notes: AsyncEngine) -> None:
        ran: list[str] = []

        async def work(*, commit: bool) -> None:
            async with scope(commit=commit) as here:
                session.add(Note(id=1))
                await session.flush()
                here.after_commit(ran.append, "committed")
                here.after_rollback(ran.append, "rolled back")

        async with isolate(session, notes):
            await work(commit=False)
            await work(commit=True)
        assert ran == ["rolled back", "committed"]

    async def test_a_session_with_callbacks_is_let_go(self, session: Proxy, notes: AsyncEngine) -> None:
        async with isolate(session, notes):
            async with scope(commit=True) as opened:
                opened.after_commit(print)
                ended = weakref.ref(session())
                await session.execute(insert(Note).values(id=1))
            del opened
            gc.collect()
            assert ended() is None

    async def test_nested_blocks_are_savepoints_within(self, session: Proxy, notes: AsyncEngine) -> None:
        @scope(propagation="nested")
        async def fail() -> None:
            session.add(Note(id=2))
            await session.flush()
            raise LookupError

        async with isolate(session, notes):
            async with scope(commit=True):
                session.add(Note(id=1))
                with pytest.raises(LookupError):
                    await fail()
                async with session.begin_nested():
                    session.add(Note(id=3))
            assert await read(session) == [1, 3]
        assert await stored(notes) == 0

    async def test_children_of_a_task_group_that_take_turns(self, session: Proxy, notes: AsyncEngine) -> None:
        async def child(id: int) -> None:
            session.add(Note(id=id))

        async with isolate(session, notes):
            async with create_task_group(limit=1, commit=True) as group:
                for id in range(5):
                    group.create_task(child(id))
            assert await read(session) == [0, 1, 2, 3, 4]
        assert await stored(notes) == 0

    async def test_a_release_in_the_middle_lets_another_scope_work(self, postgres_notes: AsyncEngine) -> None:
        session = sessions_of(postgres_notes)
        async with isolate(session, postgres_notes):
            await write(session, 1)
            async with scope():
                assert await session.scalar(select(Note.id)) == 1
                await current_scope().release()
                await write(session, 2)
                assert list(await session.scalars(select(Note.id).order_by(Note.id))) == [1, 2]

    async def test_a_release_of_what_the_scope_itself_has_written_or_locked_is_refused(
        self, postgres_notes: AsyncEngine
    ) -> None:
        session = sessions_of(postgres_notes)
        async with isolate(session, postgres_notes):
            await write(session, 1)
            async with scope() as here:
                await session.execute(select(Note).with_for_update())
                with pytest.raises(ScopeError, match="written or locked"):
                    await here.release()
                await session.rollback()
                await session.execute(select(func.pg_advisory_lock(1)))
                with pytest.raises(ScopeError, match="lock"):
                    await here.release()

    async def test_a_commit_fails_by_a_deferred_constraint(self, postgres_notes: AsyncEngine) -> None:
        """PostgreSQL checks it at COMMIT, which never comes; the end of a savepoint checks nothing."""
        session = sessions_of(postgres_notes)
        async with isolate(session, postgres_notes):
            with pytest.raises(IntegrityError):
                await write(session, 1, answers=99)
            assert await read(session) == []
            async with scope(commit=True):
                session.add(Note(id=1, answers=2))
                await session.flush()
                session.add(Note(id=2))  # and it stays deferred until then
            assert await read(session) == [1, 2]

    async def test_a_commit_of_a_spoiled_transaction_fails_as_ever(self, postgres_notes: AsyncEngine) -> None:
        session = sessions_of(postgres_notes)

        @scope(commit=True)
        async def swallow() -> None:
            session.add(Note(id=1))
            await session.flush()
            with pytest.raises(ProgrammingError):
                await session.execute(text("SELECT * FROM nowhere"))

        async with isolate(session, postgres_notes):
            with pytest.raises(RollbackOnlyError):
                await swallow()
            assert await read(session) == []

    async def test_options_that_a_session_gives_its_connection_end_with_its_transaction(
        self, session: Proxy, notes: AsyncEngine
    ) -> None:
        """The idiom of applications with many tenants; outside of tests the next session has another one."""
        async with isolate(session, notes):
            async with scope():
                await session.connection(execution_options={"schema_translate_map": {None: "tenant"}})
            assert await read(session) == []
