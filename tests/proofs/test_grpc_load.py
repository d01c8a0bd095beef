"""5,000 calls of grpc.aio by 100 clients at once: what was told as success is stored, and no more."""

import asyncio
from collections import Counter
from typing import Any

import pytest
from grpc import StatusCode
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import QueuePool

from entries import Entry, Sessions, scoped_session, stored, write
from grpc_calls import KINDS, Service, outcome
from postgres import PostgresServer

CALLS = 5_000
CLIENTS = 100

pytestmark = [pytest.mark.proof, pytest.mark.timeout(1800)]


def kind_of(number: int) -> str:
    """10 % are refused once they have written, 5 % are given up by their client, 2.5 % run out of time."""
    if number % 10 == 0:
        return "refused" if number % 20 else "aborted"
    if number % 20 == 1:
        return "given up"
    if number % 40 == 3:
        return "expired"
    return "done"


STATUS = {
    "refused": StatusCode.NOT_FOUND,
    "aborted": StatusCode.ABORTED,
    "expired": StatusCode.DEADLINE_EXCEEDED,
    "done": StatusCode.OK,
}


class Ledger:
    """What the handlers do, and which of them wait."""

    def __init__(self, Session: Sessions) -> None:
        self.Session = Session
        self.half_way = [asyncio.Event() for _ in range(CALLS)]

    async def work(self, context: Any) -> None:
        number = int(dict(context.invocation_metadata())["number"])
        kind = kind_of(number)
        await write(self.Session, str(number))
        self.half_way[number].set()
        if kind == "refused":
            context.set_code(StatusCode.NOT_FOUND)
        elif kind == "aborted":
            await context.abort(StatusCode.ABORTED)
        elif kind != "done":
            await asyncio.Event().wait()


async def ask(call: Any, ledger: Ledger, number: int) -> StatusCode | None:
    """What the client of this call saw; none if it did not wait for that."""
    kind = kind_of(number)
    calling = asyncio.create_task(
        outcome(call(metadata=[("number", str(number))], timeout=1 if kind == "expired" else None))
    )
    if kind == "given up":
        await ledger.half_way[number].wait()
        calling.cancel()
    await asyncio.wait([calling])
    return None if calling.cancelled() else calling.result()[0]


@pytest.mark.parametrize("kind", KINDS)
async def test_sums_are_exact(postgres: PostgresServer, kind: str) -> None:
    """The calls are shared out over the kinds: each has as many as make up 5,000 together."""
    engine = create_async_engine(postgres.url, pool_size=20, max_overflow=0, pool_timeout=120)
    Session: Sessions = await scoped_session(engine)
    ledger = Ledger(Session)
    calls = CALLS // len(KINDS) + 1
    outcomes = Counter[StatusCode | None]()
    received: set[str] = set()
    logged_before = len(postgres.log_path.read_text())

    service = Service(kind, KINDS[kind](ledger.work))
    async with service.serve() as call:

        async def client(first: int) -> None:
            for number in range(first, calls, CLIENTS):
                status = await ask(call, ledger, number)
                outcomes[status] += 1
                if status is StatusCode.OK:
                    received.add(str(number))

        async with asyncio.TaskGroup() as clients:
            for first in range(CLIENTS):
                clients.create_task(client(first))
        await service.watch.end()

    pool = engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedout() == 0
    expected = Counter(STATUS.get(kind_of(number)) for number in range(calls))
    assert outcomes == expected
    assert await stored(engine) == received
    assert len(received) == expected[StatusCode.OK]
    async with AsyncSession(engine) as session:
        assert await session.scalar(select(func.count(Entry.id))) == len(received)
    await engine.dispose()
    complaints = [
        line
        for line in postgres.log_path.read_text()[logged_before:].splitlines()
        if any(word in line for word in ("ERROR", "FATAL", "PANIC", "unexpected EOF", "reset by peer"))
    ]
    assert complaints == []
