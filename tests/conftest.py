"""What every test may ask for: a PostgreSQL server, and engines that notice a lost connection."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import QueuePool

from entries import Log, Sessions, scoped_session
from postgres import PostgresServer, postgres_server
from scoped_async import AsyncScopedSession
from watch import Gate, Watched, pool_of_one, shut_gate

# pytest-asyncio asks for the current loop before there is one, and before Python 3.14 that makes one which
# nobody closes: the first test that calls `asyncio.run` would drop it, and some later one be blamed.
asyncio.set_event_loop(None)

# It does not allow SQLAlchemy 2.1 yet, so only the extra `clients` brings it.
collect_ignore = [] if find_spec("fastapi_users") else ["clients/test_fastapi_users.py"]
# The queues and their servers come with the extra `jobs`.
collect_ignore += [] if find_spec("taskiq") and find_spec("faststream") else ["jobs"]
# The libraries that stand beside ours come with the extra `bench`.
collect_ignore += [] if find_spec("fastapi_async_sqlalchemy") else ["peers"]


def pytest_collection_finish() -> None:
    """Take what was imported out of the collector's sight: the tests collect often, to see what was left."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A server of our own, that a test may stop and start; one per worker of pytest-xdist."""
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """The database for the tests: the user's in ``SCOPED_ASYNC_TEST_URL``, else one on our own server."""
    url = os.environ.get("SCOPED_ASYNC_TEST_URL")
    return url or request.getfixturevalue("postgres").url


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    """PostgreSQL by a pool of 5; every connection must be back in it when the test ends."""
    engine = create_async_engine(postgres_url, pool_size=5, max_overflow=0, pool_timeout=5)
    yield engine
    await dispose(engine)


@pytest.fixture(name="Session")
async def session(engine: AsyncEngine) -> Sessions:
    """The sessions of `engine`, with an empty table of entries."""
    return await scoped_session(engine)


@pytest.fixture(name="Other")
async def other_session(Session: Sessions, engine: AsyncEngine) -> Sessions:
    """A second session in each scope, on the same table."""
    return AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))


@pytest.fixture(name="log")
def an_empty_log() -> Log:
    """Where the callbacks of a test write down that they ran."""
    return Log()


@pytest.fixture
async def watched(postgres_url: str) -> AsyncIterator[Watched]:
    """A pool of one connection with an empty table, and the sessions on it; see ``watch``."""
    async with pool_of_one(postgres_url) as watched:
        yield watched


@pytest.fixture
async def gate(postgres_url: str) -> AsyncIterator[Gate]:
    """A gate in the database that is shut."""
    async with shut_gate(postgres_url) as gate:
        yield gate


@pytest.fixture
async def sqlite_engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    """A sqlite file, with SQLAlchemy's recipe for savepoints that isolate: BEGIN is ours to send."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path / 'test.db'}")

    @event.listens_for(engine.sync_engine, "connect")
    def leave_transactions_alone(connection: Any, record: object) -> None:
        connection.isolation_level = None

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    yield engine
    await dispose(engine)


async def dispose(engine: AsyncEngine) -> None:
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    still_out = pool.checkedout()
    await engine.dispose()
    assert still_out == 0, f"{still_out} connections are still checked out"
