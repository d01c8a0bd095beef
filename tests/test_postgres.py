"""The launcher of the PostgreSQL server that the tests run against."""

import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from postgres import PostgresServer, postgres_server

PARENT = """
import sys
from postgres import postgres_server
with postgres_server() as server:
    print(server.log_path, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


async def connect(server: PostgresServer) -> asyncpg.Connection:
    return await asyncpg.connect(server.url.replace("+asyncpg", ""))


async def test_takes_connections_once_it_is_yielded(server: PostgresServer) -> None:
    connection = await connect(server)
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_comes_back_on_its_port_with_its_data(server: PostgresServer) -> None:
    connection = await connect(server)
    await connection.execute("CREATE TABLE kept (id int)")
    await connection.close()

    server.stop()
    with pytest.raises(ConnectionRefusedError):
        await connect(server)

    server.start()
    connection = await connect(server)
    assert await connection.fetchval("SELECT count(*) FROM kept") == 0
    await connection.close()


async def test_stops_with_a_client_connected(server: PostgresServer) -> None:
    connection = await connect(server)
    server.stop()
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await connection.fetchval("SELECT 1")


def test_its_folder_goes_with_it() -> None:
    with postgres_server() as server:
        folder = server.log_path.parent
        assert folder.is_dir()
    assert not folder.exists()


def test_says_in_its_error_why_it_does_not_start(server: PostgresServer) -> None:
    server.stop()
    (server.log_path.parent / "data" / "PG_VERSION").write_text("1\n")
    with pytest.raises(RuntimeError, match="incompatible with server"):
        server.start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process that its parent died")
def test_dies_with_its_parent_even_by_sigkill() -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "TMPDIR": folder}
        command = [sys.executable, "-c", PARENT]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        ) as parent:
            assert parent.stdout is not None
            log = Path(parent.stdout.readline().strip())
            pid = int((log.parent / "data" / "postmaster.pid").read_text().split()[0])
            server = os.pidfd_open(pid)
            parent.kill()
        try:
            ended, _, _ = select.select([server], [], [], 30)
            assert ended, "the server outlives its parent"
            assert "fast shutdown" in log.read_text()
        finally:
            os.close(server)
