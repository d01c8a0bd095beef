"""What the tests of one cell share: the library on its pool, one request to it, and the cell's text."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from libraries import GetSession, Handler, Library
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from entries import stored
from factory import connections
from relay import Relay
from scoped_async.asgi import Receive, Send
from servers import client_of

THEIR_WARNINGS = [
    # fastapi-async-sqlalchemy takes SQLModel's session where it is installed, which warns of execute().
    pytest.mark.filterwarnings("ignore:\\s+🚨 You probably want to use:DeprecationWarning"),
    # And from 0.8 on it makes a warning of what it swallows.
    pytest.mark.filterwarnings("ignore:Suppressed session cleanup error:UserWarning"),
]

TABLE = Path(__file__).parents[2] / "docs" / "comparison.md"


@dataclass
class Bench:
    """A library, and what came of its work."""

    library: Library
    engine: AsyncEngine
    observer: AsyncEngine
    line: Relay
    """Between the engine and the server."""
    row: str
    sessions: list[AsyncSession] = field(default_factory=list)
    """Every session that was handed out, kept alive, so that no garbage collector gives a connection back."""
    raised: list[BaseException] = field(default_factory=list)
    """What came out of the application to the server."""

    @property
    def out(self) -> int:
        """How many connections are out of the pool."""
        return connections(self.engine)[1]

    async def stored(self) -> str:
        """What is committed, as text."""
        return ", ".join(sorted(await stored(self.observer))) or "nothing"

    def keeping(self, session: GetSession) -> GetSession:
        """``session``, with what it hands out remembered."""

        async def get() -> AsyncSession:
            found = await session()
            self.sessions.append(found)
            return found

        return get

    @asynccontextmanager
    async def unit(self) -> AsyncIterator[GetSession]:
        """A unit of work of the library."""
        async with self.library.unit() as session:
            yield self.keeping(session)

    async def get(self, handler: Handler) -> int:
        """The status that a client is told; returns when the application has returned or raised."""
        app, left = self.library.app(lambda session: handler(self.keeping(session))), asyncio.Event()

        async def watched(asgi: Any, receive: Receive, send: Send) -> None:
            try:
                await app(asgi, receive, send)
            except Exception as error:
                self.raised.append(error)
                raise
            finally:
                if asgi["type"] == "http":
                    left.set()

        async with client_of(watched) as client, client.stream("GET", "/") as response:
            with suppress(httpx.RemoteProtocolError):  # a body that was cut short
                await response.aread()
            await left.wait()
        return response.status_code

    async def shut_at_commit(self, key: int) -> None:
        """Let every COMMIT that has written wait for the advisory lock ``key``."""
        async with self.observer.begin() as connection:
            for statement in (
                "CREATE OR REPLACE FUNCTION wait_at_commit() RETURNS trigger LANGUAGE plpgsql AS "
                f"'BEGIN PERFORM pg_advisory_xact_lock({key}); RETURN NULL; END'",
                "CREATE CONSTRAINT TRIGGER waits AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION wait_at_commit()",
            ):
                await connection.execute(text(statement))

    async def is_stored(self, line: str) -> bool:
        """Whether ``line`` is committed."""
        return line in await stored(self.observer)

    def shows(self, outcome: str) -> None:
        """Hold what happened against the cell of this test and library."""
        assert outcome == cell(self.row, self.library.title)


def fate(stored: str, out: int) -> str:
    """What is stored in the end, and what has not come back."""
    return f"{stored} stored" + (f", {out} connection lost" if out else "")


def cell(test: str, library: str) -> str:
    """The text of a cell of docs/comparison.md, whose rows link to their tests."""
    head, *lines = rows(TABLE)
    [row] = [line for line in lines if f"::{test}`" in line[0]]
    [column] = [number for number, text in enumerate(head) if text.startswith(library)]
    return row[column]


def rows(path: Path) -> list[list[str]]:
    """The lines of the first table in a page, the head first."""
    text = path.read_text(encoding="utf-8")
    lines = text[text.index("| |") :].partition("\n\n")[0].splitlines()
    return [[text.strip() for text in line.strip("|").split("|")] for line in lines]
