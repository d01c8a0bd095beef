"""5,000 requests to aiohttp by 100 clients at once: what was told as success is stored, and no more."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import QueuePool

from aiohttp_site import client_of
from entries import Entry, Sessions, scoped_session, stored, write
from postgres import PostgresServer
from scoped_async.aiohttp import scope_middleware

REQUESTS = 5_000
CLIENTS = 100

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
    """The site, and what of its answers went to the clients."""

    def __init__(self, Session: Sessions) -> None:
        self.Session = Session
        self.half_way = [asyncio.Event() for _ in range(REQUESTS)]
        self.told: set[str] = set()
        """The requests with a 2xx whose head was sent."""
        self.app = web.Application(middlewares=[self.listen, scope_middleware(commit=True)])
        self.app.router.add_post("/{number}", self.serve)

    @web.middleware
    async def listen(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if response.status < 300:
            self.told.add(request.match_info["number"])
        return response

    async def serve(self, request: web.Request) -> web.StreamResponse:
        number = int(request.match_info["number"])
        kind = kind_of(number)
        await write(self.Session, str(number))
        if kind == "refused":
            raise web.HTTPUnprocessableEntity
        if kind == "given up before the answer":
            await self.wait_for_ever(number)
        if kind == "given up in mid-stream":
            response = web.StreamResponse()
            await response.prepare(request)
            self.told.add(str(number))
            await response.write(b"piece")
            await write(self.Session, f"{number} after the head")
            await self.wait_for_ever(number)
        return web.Response(body=self.pieces()) if number % 2 else web.json_response(number)

    async def pieces(self) -> AsyncIterator[bytes]:
        yield b"piece"

    async def wait_for_ever(self, number: int) -> None:
        self.half_way[number].set()
        await asyncio.Event().wait()


async def ask(http: aiohttp.ClientSession, ledger: Ledger, number: int) -> str:
    """What the client of this request saw."""

    async def post() -> str:
        async with http.post(f"/{number}") as response:
            await response.read()
            return str(response.status)

    request = asyncio.create_task(post())
    if kind_of(number).startswith("given up"):
        await ledger.half_way[number].wait()
        request.cancel()
    await asyncio.wait([request])
    return "given up" if request.cancelled() else request.result()


async def test_sums_are_exact(postgres: PostgresServer) -> None:
    engine = create_async_engine(postgres.url, pool_size=20, max_overflow=0, pool_timeout=120)
    Session: Sessions = await scoped_session(engine)
    ledger = Ledger(Session)
    outcomes = Counter[str]()
    received: set[str] = set()
    logged_before = len(postgres.log_path.read_text())

    async with client_of(ledger.app, handler_cancellation=True) as http:

        async def client(first: int) -> None:
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
    assert complaints(postgres, logged_before) == []


def complaints(postgres: PostgresServer, logged_before: int) -> list[str]:
    """What PostgreSQL has logged since."""
    return [
        line
        for line in postgres.log_path.read_text()[logged_before:].splitlines()
        if any(word in line for word in ("ERROR", "FATAL", "PANIC", "unexpected EOF", "reset by peer"))
    ]
