"""clone_database: a database of its own for one test, copied from a template and dropped afterwards."""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from sqlalchemy import URL, Connection, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ._cleanup import to_its_end
from ._database_errors import sqlstate
from .exceptions import ScopeError

_IN_USE, _NOT_THERE = "55006", "3D000"
_LONGEST_DATABASE, _LONGEST_FILE = 63, 255 - len(".db-journal")
"""In bytes."""


@asynccontextmanager
async def clone_database(url: str | URL, template: str | None = None) -> AsyncGenerator[URL]:
    """A fresh database for the block: ``async with clone_database(url, template="app") as clone_url: ...``.

    ``url``: PostgreSQL from 15 on, by an async driver: the server and a database on it to connect to; sqlite:
    a file.
    ``template``: what is copied, the name of a database or the path of a sqlite file; default the one in
    ``url``. Yields the URL of the copy. At the end the copy is dropped, whoever is connected. Its name begins
    with the template's and ``_clone_``, so what a killed run leaves behind is easily found.

    Raises `ScopeError` while somebody is connected to the template, for one that is not there, and for what
    cannot be copied.

    .. versionadded:: 0.1
    """
    url = make_url(url)
    backend = url.get_backend_name()
    if backend == "postgresql":
        clone = _postgresql(url, template)
    elif backend == "sqlite":
        clone = _sqlite(url, template)
    else:
        raise ScopeError(f"clone_database() copies PostgreSQL databases and sqlite files, not {backend}.")
    async with clone as clone_url:
        yield clone_url


@asynccontextmanager
async def _postgresql(url: URL, template: str | None) -> AsyncGenerator[URL]:
    template = template or url.database or "postgres"
    name = _name(template, _LONGEST_DATABASE)
    # Nobody may be connected to a template while it is copied.
    server = url.set(database="postgres") if template == url.database else url
    try:
        await to_its_end(_create(server, name, template))
        yield url.set(database=name)
    finally:
        await to_its_end(_drop(server, name))


def _name(template: str, longest: int) -> str:
    """A name that no other clone has."""
    suffix = f"_clone_{uuid4().hex[:12]}"
    return template.encode()[: longest - len(suffix)].decode(errors="ignore") + suffix


async def _create(server: URL, name: str, template: str) -> None:
    def create(connection: Connection) -> None:
        quote = connection.dialect.identifier_preparer.quote_identifier
        names = f"{quote(name)} TEMPLATE {quote(template)}"
        try:
            connection.exec_driver_sql(f"CREATE DATABASE {names} STRATEGY file_copy")
        except DBAPIError as error:
            if sqlstate(error) == _IN_USE:
                raise ScopeError(
                    f"clone_database() cannot copy {template!r} while somebody is connected to it. Dispose "
                    "the engine that filled it, `await engine.dispose()`, and let no test use it."
                ) from error
            if sqlstate(error) == _NOT_THERE:
                raise ScopeError(
                    f"clone_database() copies PostgreSQL databases, and there is none named {template!r} on "
                    f"{server.host}. Create and fill it before the tests."
                ) from error
            raise

    await _run(server, create)


async def _drop(server: URL, name: str) -> None:
    def drop(connection: Connection) -> None:
        quoted = connection.dialect.identifier_preparer.quote_identifier(name)
        connection.exec_driver_sql(f"DROP DATABASE IF EXISTS {quoted} WITH (FORCE)")

    await _run(server, drop)


async def _run(server: URL, work: Callable[[Connection], None]) -> None:
    engine = create_async_engine(server, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            await connection.run_sync(work)
    finally:
        await engine.dispose()


@asynccontextmanager
async def _sqlite(url: URL, template: str | None) -> AsyncGenerator[URL]:
    source = template or url.database or ":memory:"
    if not await asyncio.to_thread(Path(source).is_file):
        raise ScopeError(f"clone_database() copies sqlite files, and there is no file {source!r}.")
    with TemporaryDirectory(prefix="scoped_async-", ignore_cleanup_errors=True) as folder:
        copy = Path(folder, f"{_name(Path(source).stem, _LONGEST_FILE)}.db")
        await asyncio.to_thread(_copy, source, copy)
        yield url.set(database=str(copy))


def _copy(source: str, target: Path) -> None:
    """By sqlite's own means, so that what stands in a write-ahead log comes too."""
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)
