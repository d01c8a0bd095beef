"""A test that asks for ``bench`` runs once per library, against its cell in docs/comparison.md."""

from collections.abc import AsyncIterator
from importlib.metadata import version

import pytest
from cells import Bench
from libraries import Library
from libraries_installed import LIBRARIES
from sqlalchemy import NullPool
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from entries import scoped_session
from relay import relay


def title(library: type[Library]) -> str:
    """Its name and the version that the test runs with."""
    return f"{library.package} {version(library.package)}" if library.package else library.title


@pytest.fixture(params=LIBRARIES, ids=title)
async def bench(request: pytest.FixtureRequest, postgres_url: str) -> AsyncIterator[Bench]:
    """A library over a pool of 5, and an observer that sees what is committed; nothing stays when it ends."""
    observer = create_async_engine(postgres_url, poolclass=NullPool)
    await scoped_session(observer)  # the pool stays cold
    async with relay(postgres_url) as line:
        engine = create_async_engine(line.url, pool_size=5, max_overflow=0, pool_timeout=5)
        bench = Bench(request.param(engine), engine, observer, line, request.node.originalname)
        yield bench
        for session in bench.sessions:
            if isinstance(session, AsyncSession):  # which our proxy is not
                await session.close()
        await engine.dispose()
    await observer.dispose()
