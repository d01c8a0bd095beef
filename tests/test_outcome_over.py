"""Law 20: a transaction that was over before its commit, after a failure that was swallowed."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from entries import Entry, Sessions, scoped_session, stored, write
from scoped_async import RollbackOnlyError, scope


class TestLaw20ATransactionThatIsOver:
    """Its commit would commit nothing, and says so."""

    async def test_a_commit_was_sent_as_a_statement(self, Session: Sessions, engine: AsyncEngine) -> None:
        with pytest.raises(RollbackOnlyError, match="its transaction is over") as failure:
            async with scope(commit=True):
                await write(Session, "lost")
                with pytest.raises(DBAPIError):
                    await Session.execute(text("SELECT 1 / 0"))
                await Session.execute(text("COMMIT"))  # which PostgreSQL answers with ROLLBACK
        assert "division by zero" in str(failure.value.__cause__)
        assert await stored(engine) == set()

    async def test_sqlite_has_rolled_back(self, sqlite_engine: AsyncEngine) -> None:
        Session = await scoped_session(sqlite_engine)
        with pytest.raises(RollbackOnlyError, match="its transaction is over"):
            async with scope(commit=True):
                await Session.execute(insert(Entry).values(id=1, text="lost"))
                with pytest.raises(IntegrityError):
                    await Session.execute(insert(Entry).values(id=1, text="twice").prefix_with("OR ROLLBACK"))
        assert await stored(sqlite_engine) == set()

    @pytest.mark.parametrize("options", [{}, {"isolation_level": "AUTOCOMMIT"}])
    async def test_sqlite_in_its_other_modes_loses_nothing(self, options: Any, tmp_path: Path) -> None:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'file.db'}", **options)
        Session = await scoped_session(engine)
        async with scope(commit=True):
            await Session.execute(insert(Entry).values(id=1, text="kept"))
            with pytest.raises(IntegrityError):
                await Session.execute(insert(Entry).values(id=1, text="twice"))
        assert await stored(engine) == {"kept"}
        await engine.dispose()
