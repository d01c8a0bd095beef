"""The service: it accepts transfers, and sends each of them to the workers.

The transactional outbox: what is to be sent is written in the transaction of the request, so that it is there
if and only if the request was accepted. A relay sends it afterwards. When that dies between the send and its
commit, it sends once more; the job refuses what it has done.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from ledger import BY_REDIS, Outbox, Session, broker, engine, transfer, wake
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from scoped_async import current_scope, scope
from scoped_async.asgi import ScopeMiddleware

RELAY_AT_ONCE = 100


class Transfer(BaseModel):
    job: str
    payer: int
    payee: int
    amount: int


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    await broker.startup()
    relaying = asyncio.create_task(relay())
    yield
    relaying.cancel()
    await asyncio.wait([relaying])
    await broker.shutdown()
    await engine.dispose()


app = FastAPI(lifespan=lifespan)
app.add_middleware(ScopeMiddleware, commit=True)
accepted = asyncio.Event()


@app.post("/transfers", status_code=202)
async def accept(transfers: list[Transfer]) -> None:
    rows = [transfer.model_dump() for transfer in transfers]
    await Session.execute(insert(Outbox).on_conflict_do_nothing(), rows)
    current_scope().after_commit(accepted.set)


async def relay() -> None:
    """Send what is in the outbox: at once after a request, and every second what is left of others."""
    while True:
        accepted.clear()
        try:
            if await send_some() == RELAY_AT_ONCE:
                continue
            if BY_REDIS:
                await wake.kiq()
        except Exception:
            logging.exception("the relay tries again")
        with suppress(TimeoutError):
            await asyncio.wait_for(accepted.wait(), 1)


@scope(commit=True)
async def send_some() -> int:
    """Send up to a hundred, and forget them with the commit. Each relay takes those that no other has."""
    rows = (
        await Session.scalars(select(Outbox).limit(RELAY_AT_ONCE).with_for_update(skip_locked=True))
    ).all()
    await asyncio.gather(*(transfer.kiq(row.job, row.payer, row.payee, row.amount) for row in rows))
    for row in rows:
        await Session.delete(row)
    return len(rows)
