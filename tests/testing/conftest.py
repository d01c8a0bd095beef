"""Engines on either database, with an empty table of notes."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from notes import Base, sessions_of
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.pool import QueuePool
from suites import RUNNERS, Runner

from scoped_async import AsyncScopedSession


@pytest.fixture
async def postgres_notes(engine: AsyncEngine) -> AsyncIterator[AsyncEngine]:
    """PostgreSQL."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)


@pytest.fixture
async def sqlite_notes(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A sqlite file, without the recipe for savepoints: `isolate` brings its own."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'notes.db'}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield engine
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0
    await engine.dispose()


@pytest.fixture(params=["postgresql", "sqlite"])
def notes(request: pytest.FixtureRequest) -> Any:
    """Both, one after the other."""
    return request.getfixturevalue("postgres_notes" if request.param == "postgresql" else "sqlite_notes")


@pytest.fixture
def session(notes: AsyncEngine) -> AsyncScopedSession[AsyncSession]:
    """The application's proxy."""
    return sessions_of(notes)


@pytest.fixture(params=list(RUNNERS))
def runner(request: pytest.FixtureRequest) -> Runner:
    """Each way in which a user may run async tests."""
    return RUNNERS[request.param]
