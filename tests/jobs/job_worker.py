"""A worker process: it works on the jobs of one engine until SIGTERM.

An engine in memory has no jobs but its own, so it sends itself one.
"""

import asyncio
import signal
import sys

from engines import ENGINES, IN_MEMORY
from job_ledger import Ledger, Row, engine_of_worker
from sqlalchemy.ext.asyncio import async_sessionmaker

from scoped_async import AsyncScopedSession


async def main(name_of_engine: str, postgres_url: str, nats_url: str, name: str, row: str) -> None:
    database = engine_of_worker(postgres_url, name)
    ledger = Ledger(database, AsyncScopedSession(async_sessionmaker(database, expire_on_commit=False)))
    engine = ENGINES[name_of_engine](ledger, nats_url, name)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with engine.connected(), engine.running():
        if name_of_engine in IN_MEMORY:
            await engine.send(Row(row))
        await stop.wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
