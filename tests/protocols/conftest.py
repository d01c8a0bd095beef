"""The database that each test of a protocol has to itself."""

from collections.abc import AsyncIterator

import pytest
from protocol_database import Database
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from entries import scoped_session


@pytest.fixture
async def database(engine: AsyncEngine, postgres_url: str) -> AsyncIterator[Database]:
    """Sessions on PostgreSQL by a pool of 5, to which every connection must have come back."""
    observer = create_async_engine(postgres_url, poolclass=NullPool)
    database = Database(engine, await scoped_session(engine), observer)
    yield database
    assert database.out == 0
    await observer.dispose()
