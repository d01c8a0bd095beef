"""How the shop is tested: rolled back per test by default, a database of its own where that is not enough.

``SHOP_URL`` names the database, by default a sqlite file: ``postgresql+asyncpg://user@localhost/shop_test``.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from scoped_async.testing import clone_database

sys.path.insert(0, str(Path(__file__).parents[1]))
import shop


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> URL:
    """The tables, created once. Nobody stays connected, so that it can be cloned."""
    file = tmp_path_factory.mktemp("shop") / "shop.db"
    url = make_url(os.environ.get("SHOP_URL", f"sqlite+aiosqlite:///{file}"))
    asyncio.run(create_tables(url))
    return url


async def create_tables(url: URL) -> None:
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.run_sync(shop.Base.metadata.create_all)
    await engine.dispose()


@pytest.fixture
async def engine(database: URL) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database)
    yield engine
    await engine.dispose()


@pytest.fixture
def scoped_async_sessions(engine: AsyncEngine) -> list[Any]:
    """What scoped_isolation isolates: these five lines are all that it needs."""
    return [(shop.Session, engine)]


@pytest.fixture
async def own_database(database: URL) -> AsyncIterator[AsyncEngine]:
    """A copy of the database for one test, with real commits on as many connections as it likes."""
    async with clone_database(database) as url:
        engine = create_async_engine(url)
        shop.Session.configure(bind=engine)
        yield engine
        shop.Session.configure(bind=None)
        await engine.dispose()


@pytest.fixture(autouse=True)
def no_mails() -> None:
    shop.mails.clear()
