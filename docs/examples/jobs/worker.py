"""A worker: start as many as you like, on as many machines. `taskiq worker ledger:broker` does the same."""

import asyncio

from ledger import JOBS_AT_ONCE, broker
from taskiq.api import run_receiver_task

if __name__ == "__main__":
    asyncio.run(run_receiver_task(broker, max_async_tasks=JOBS_AT_ONCE, run_startup=True))
