"""20,000 requests by 200 clients at once: the database holds what was told as success, and no more."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import QueuePool

from entries import Entry, Sessions, scoped_session, stored, write
from postgres import PostgresServer
from scoped_async.asgi import Application, Message, Receive, ScopeMiddleware, Send
from servers import CancelOnDisconnect, by_uvicorn

REQUESTS = 20_000
CLIENTS = 200

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]


def kind_of(number: int) -> str:
    """10 % are refused once they have written; 5 % are given up by their client half-way."""
    if number % 10 == 0:
        return "refused"
    if number % 40 == 1:
        return "given up before the answer"
    if number % 40 == 21:
        return "given up in mid-stream"
    return "done"


class Ledger:
    """The service, and what of its answers went to the server."""

    def __init__(self, Session: Sessions) -> None:
        self.Session = Session
        self.half_way = [asyncio.Event() for _ in range(REQUESTS)]
        self.told: set[str] = set()
        """The requests with a 2xx that was sent."""
        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=True)
        app.add_middleware(CancelOnDisconnect)
        app.post("/{number}", response_model=None)(self.serve)
        self.app = self.listening(app)

    async def serve(self, number: int) -> StreamingResponse | dict[str, int]:
        kind = kind_of(number)
        await write(self.Session, str(number))
        if kind == "refused":
            raise HTTPException(422)
        if kind == "given up before the answer":
            await self.wait_for_ever(number)
        return (
            StreamingResponse(self.pieces(number)) if kind == "given up in mid-stream" else {"number": number}
        )

    async def pieces(self, number: int) -> AsyncIterator[str]:
        yield "piece"
        await write(self.Session, f"{number} after the start")
        await self.wait_for_ever(number)

    async def wait_for_ever(self, number: int) -> None:
        self.half_way[number].set()
        await asyncio.Event().wait()

    def listening(self, app: Application) -> Application:
        async def listen(asgi: Message, receive: Receive, send: Send) -> None:
            async def note(message: Message) -> None:
                if message["type"] == "http.response.start" and message["status"] < 300:
                    self.told.add(asgi["path"].removeprefix("/"))
                await send(message)

            await app(asgi, receive, note)

        return listen


async def ask(http: httpx.AsyncClient, ledger: Ledger, number: int) -> str:
    """What the client of this request saw."""
    request = asyncio.create_task(http.post(f"/{number}"))
    if kind_of(number).startswith("given up"):
        await ledger.half_way[number].wait()
        request.cancel()
    await asyncio.wait([request])
    return "given up" if request.cancelled() else str(request.result().status_code)


async def test_sums_are_exact(postgres: PostgresServer) -> None:
    engine = create_async_engine(postgres.url, pool_size=20, max_overflow=0, pool_timeout=120)
    Session: Sessions = await scoped_session(engine)
    ledger = Ledger(Session)
    outcomes = Counter[str]()
    received: set[str] = set()
    logged_before = len(postgres.log_path.read_text())

    async with by_uvicorn(ledger.app) as url:

        async def client(first: int) -> None:
            async with httpx.AsyncClient(base_url=url, verify=False, timeout=300) as http:
                for number in range(first, REQUESTS, CLIENTS):
                    outcome = await ask(http, ledger, number)
                    outcomes[outcome] += 1
                    if outcome == "200":
                        received.add(str(number))

        async with asyncio.TaskGroup() as clients:
            for first in range(CLIENTS):
                clients.create_task(client(first))

    pool = engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0
    expected = Counter(kind_of(number) for number in range(REQUESTS))
    given_up = expected["given up before the answer"] + expected["given up in mid-stream"]
    assert outcomes == {"200": expected["done"], "422": expected["refused"], "given up": given_up}
    kept = await stored(engine)
    assert kept == ledger.told
    assert received <= kept
    assert len(kept - received) == expected["given up in mid-stream"]
    async with AsyncSession(engine) as session:
        assert await session.scalar(select(func.count(Entry.id))) == len(kept)
    await engine.dispose()
    complaints = [
        line
        for line in postgres.log_path.read_text()[logged_before:].splitlines()
        if any(word in line for word in ("ERROR", "FATAL", "PANIC", "unexpected EOF", "reset by peer"))
    ]
    assert complaints == []
