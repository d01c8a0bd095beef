"""Law 18, where a session takes part in another's transaction: of the connection that it is bound to."""

import pytest
from sqlalchemy import insert, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from entries import Entry, Log, Sessions, stored, write
from scoped_async import AsyncScopedSession, scope


@pytest.mark.parametrize("calls_back", [False, True])
class TestLaw18InAnothersTransaction:
    @pytest.mark.parametrize("how", ["an exception", "rollback_only"])
    async def test_a_scope_that_fails_rolls_it_back(
        self, how: str, calls_back: bool, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """SQLAlchemy's ``close()`` would leave its work there, for the other to commit."""
        async with engine.connect() as connection:
            transaction = await connection.begin()
            Bound = AsyncScopedSession(async_sessionmaker(connection))
            try:
                async with scope(commit=True) as opened:
                    await write(Bound, "lost")
                    if calls_back:
                        log.watch()
                    if how == "an exception":
                        raise LookupError
                    opened.rollback_only = True
            except LookupError:
                assert how == "an exception"
            with pytest.raises(InvalidRequestError, match="inactive"):
                await transaction.commit()
        assert await stored(engine) == set()
        assert log == ["rolled back"] * calls_back

    async def test_one_that_ends_well_without_a_commit_leaves_it(
        self, calls_back: bool, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        """As a test does that gives all its scopes one connection, and rolls back at the end."""
        async with engine.begin() as connection:
            Bound = AsyncScopedSession(async_sessionmaker(connection))
            await connection.execute(insert(Entry).values(text="kept"))
            async with scope():
                assert await Bound.scalar(select(Entry.text)) == "kept"
                if calls_back:
                    log.watch()
        assert await stored(engine) == {"kept"}
        assert log == ["rolled back"] * calls_back

    async def test_a_commit_leaves_it(
        self, calls_back: bool, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with engine.begin() as connection:
            Bound = AsyncScopedSession(async_sessionmaker(connection))
            async with scope(commit=True):
                await write(Bound, "kept")
                if calls_back:
                    log.watch()
        assert await stored(engine) == {"kept"}
        assert log == ["committed"] * calls_back
