"""Law 26: a nested block is a SAVEPOINT on every session of the scope."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine

from entries import Entry, Sessions, fail_after, scoped_session, stored, write
from scoped_async import (
    AsyncScopedSession,
    ScopedResource,
    ScopeError,
    current_scope,
    scope,
)


class TestLaw26Nested:
    """A nested block's failure rolls back to its savepoints; its success releases them."""

    async def test_success_and_failure(self, Session: Sessions, engine: AsyncEngine) -> None:
        async with scope(commit=True) as outer:
            await write(Session, "outer")
            async with scope(propagation="nested") as nested:
                assert nested is outer
                assert Session.in_nested_transaction()
                await write(Session, "released")
            assert not Session.in_nested_transaction()
            await fail_after(write(Session, "failed"))
            await write(Session, "after")
        assert await stored(engine) == {"outer", "released", "after"}

    async def test_what_is_released_goes_with_the_outer_scope(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope():
            await write(Session, "outer")
            async with scope(propagation="nested", commit=True):
                await write(Session, "released")
        assert await stored(engine) == set()

    async def test_a_decorated_function(self, Session: Sessions, engine: AsyncEngine) -> None:
        @scope(propagation="nested", commit=True)
        async def service(name: str, *, fails: bool) -> None:
            await write(Session, name)
            if fails:
                raise LookupError(name)

        async with scope(commit=True):
            await write(Session, "outer")
            await service("kept", fails=False)
            with pytest.raises(LookupError):
                await service("lost", fails=True)
        assert await stored(engine) == {"outer", "kept"}

        await service("in a scope of its own", fails=False)
        with pytest.raises(LookupError):
            await service("lost in a scope of its own", fails=True)
        assert await stored(engine) == {"outer", "kept", "in a scope of its own"}

    @pytest.mark.parametrize("touched", ["both before", "one before", "none before"])
    async def test_every_session_goes_back_also_those_first_touched_inside(
        self, touched: str, Session: Sessions, Other: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            if touched != "none before":
                await write(Session, "one before")
            if touched == "both before":
                await write(Other, "other before")

            async def both() -> None:
                await write(Session, "one lost")
                await write(Other, "other lost")

            await fail_after(both())
            async with scope(propagation="nested"):
                await write(Session, "one kept")
                await write(Other, "other kept")
        before = {"both before": {"one before", "other before"}, "one before": {"one before"}}
        assert await stored(engine) == before.get(touched, set()) | {"one kept", "other kept"}

    async def test_three_levels_deep(self, Session: Sessions, Other: Sessions, engine: AsyncEngine) -> None:
        async with scope(commit=True):
            await write(Session, "0")
            async with scope(propagation="nested"):
                await write(Session, "1")
                async with scope(propagation="nested"):
                    await write(Other, "2")
                    await fail_after(write(Session, "3 lost"))
                    async with scope(propagation="nested"):
                        await write(Session, "3")

                async def two_levels() -> None:
                    await write(Session, "2 lost")
                    async with scope(propagation="nested"):
                        await write(Other, "3 released, and lost with 2")

                await fail_after(two_levels())
        assert await stored(engine) == {"0", "1", "2", "3"}

    async def test_begin_nested_and_blocks_within_each_other(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True), Session.begin_nested():
            await write(Session, "1")
            async with scope(propagation="nested"):
                await write(Session, "2")
                with pytest.raises(LookupError):
                    async with Session.begin_nested():
                        await write(Session, "3 lost")
                        async with scope(propagation="join"):
                            await write(Session, "joined in 3, lost")
                        raise LookupError
                async with Session.begin_nested():
                    await fail_after(write(Session, "4 lost"))
                    await write(Session, "3")
        assert await stored(engine) == {"1", "2", "3"}

    async def test_within_begin(self, Session: Sessions, engine: AsyncEngine) -> None:
        async with scope(), Session.begin():
            await fail_after(write(Session, "lost"))
            async with scope(propagation="nested"):
                await write(Session, "kept")
        assert await stored(engine) == {"kept"}

    async def test_what_is_done_on_the_connection_itself_goes_back_too(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True):
            connection = await Session.connection()
            await connection.execute(insert(Entry).values(text="kept"))
            await fail_after(write_on(connection, "lost"))
        assert await stored(engine) == {"kept"}

    async def test_a_session_with_binds_alone(self, Session: Sessions, engine: AsyncEngine) -> None:
        Bound: Sessions = AsyncScopedSession(async_sessionmaker(binds={Entry: engine}))
        async with scope(commit=True):
            Bound.add(Entry(text="pending before"))
            await fail_after(write(Bound, "lost"))
            Bound.expunge_all()
            async with scope(propagation="nested"):
                await write(Bound, "kept")
        assert await stored(engine) == {"pending before", "kept"}

    async def test_objects_are_what_they_were(self, Session: Sessions, engine: AsyncEngine) -> None:
        async with scope(commit=True):
            entry = Entry(text="before")
            Session.add(entry)
            await Session.flush()
            with pytest.raises(LookupError):
                async with scope(propagation="nested"):
                    entry.text = "changed"
                    Session.add(lost := Entry(text="lost"))
                    await Session.flush()
                    raise LookupError
            await Session.refresh(entry)
            assert entry.text == "before"
            assert lost not in Session
        assert await stored(engine) == {"before"}

    async def test_a_resource_has_no_savepoint_and_stays_as_it_is(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        ended: list[str] = []
        lines = ScopedResource(
            list[str], commit=lambda _: ended.append("commit"), rollback=lambda _: ended.append("rollback")
        )
        async with scope(commit=True):
            lines().append("before")
            with pytest.raises(LookupError):
                async with scope(propagation="nested"):
                    lines().append("in the block")
                    raise LookupError
            assert lines() == ["before", "in the block"]
            assert ended == []
        assert ended == ["commit"]

    async def test_by_hand_rollback_only_undoes_the_block_without_an_error(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with scope(commit=True) as outer:
            await write(Session, "outer")
            async with scope(propagation="nested"):
                await write(Session, "lost")
                current_scope().rollback_only = True
                assert current_scope().rollback_only
            assert not outer.rollback_only
            await write(Session, "after")
        assert await stored(engine) == {"outer", "after"}

    async def test_in_a_marked_scope_it_is_marked_too(self) -> None:
        async with scope() as outer:
            outer.rollback_only = True
            async with scope(propagation="nested") as nested:
                assert nested.rollback_only


async def write_on(connection: Any, name: str) -> None:
    await connection.execute(insert(Entry).values(text=name))


class TestLaw26Sqlite:
    """On sqlite nested blocks need SQLAlchemy's recipe; without it they raise ScopeError naming that."""

    @pytest.fixture
    async def plain_engine(self, tmp_path: Path) -> AsyncIterator[AsyncEngine]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'plain.db'}")
        yield engine
        await engine.dispose()

    async def test_with_the_recipe(self, sqlite_engine: AsyncEngine) -> None:
        Session = await scoped_session(sqlite_engine)
        async with scope(commit=True):
            await write(Session, "outer")
            await fail_after(write(Session, "lost"))
            async with scope(propagation="nested"):
                await write(Session, "kept")
        assert await stored(sqlite_engine) == {"outer", "kept"}
        async with scope():
            await write(Session, "outer, rolled back")
            async with scope(propagation="nested"):
                await write(Session, "released, rolled back")
        assert await stored(sqlite_engine) == {"outer", "kept"}

    @pytest.mark.parametrize("first", ["read", "written", "pending", "begun"])
    async def test_without_it(self, first: str, plain_engine: AsyncEngine) -> None:
        Session = await scoped_session(plain_engine)
        async with scope():
            if first == "read":
                await Session.execute(text("SELECT 1"))
            elif first == "written":
                await write(Session, "one")
            elif first == "pending":
                Session.add(Entry(text="one"))
            else:
                await Session.begin()
            with pytest.raises(ScopeError, match="isolation_level = None"):
                async with scope(propagation="nested"):
                    pytest.fail("entered")
        assert await stored(plain_engine) == set()

    async def test_a_session_first_touched_inside_needs_no_savepoint(self, plain_engine: AsyncEngine) -> None:
        Session = await scoped_session(plain_engine)
        async with scope(commit=True):
            await fail_after(write(Session, "lost"))
            async with scope(propagation="nested"):
                await write(Session, "kept")
        assert await stored(plain_engine) == {"kept"}
