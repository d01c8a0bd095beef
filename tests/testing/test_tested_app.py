"""The sample application of the docs passes its own tests, on either database."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from suites import ALONE, INSTALLED, PLUGIN, SEVERAL_WORKERS

SHOP = Path(__file__).parents[2] / "docs" / "examples" / "tested_app"


@pytest.fixture
async def shop_database(postgres_url: str) -> AsyncIterator[str]:
    server = create_async_engine(postgres_url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with server.connect() as connection:
        await connection.execute(text("CREATE DATABASE shop_test"))
    yield make_url(postgres_url).set(database="shop_test").render_as_string(hide_password=False)
    async with server.connect() as connection:
        await connection.execute(text("DROP DATABASE shop_test WITH (FORCE)"))


def run(*options: str, **environment: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
    done = subprocess.run(
        command, cwd=SHOP, env=os.environ | environment, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout


def test_on_sqlite() -> None:
    """With the plugins that pytest finds by itself, ours among them when the package is installed."""
    run(*([] if INSTALLED else PLUGIN))


def test_on_postgresql(shop_database: str) -> None:
    run(*PLUGIN, "-p", "asyncio", SHOP_URL=shop_database, **ALONE)


def test_on_several_workers_in_random_order() -> None:
    run(*PLUGIN, "-p", "asyncio", *SEVERAL_WORKERS, **ALONE)
