"""The service that each test of the ASGI middleware has to itself."""

from collections.abc import AsyncIterator

import pytest
from service import Service
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from entries import scoped_session


@pytest.fixture
async def service(engine: AsyncEngine, postgres_url: str) -> AsyncIterator[Service]:
    """Sessions on PostgreSQL by a pool of 5, to which every connection must have come back."""
    observer = create_async_engine(postgres_url, poolclass=NullPool)
    service = Service(engine, await scoped_session(engine), observer)
    yield service
    assert service.out == 0
    await observer.dispose()
