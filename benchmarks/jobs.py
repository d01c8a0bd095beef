"""What the scope of a job costs: jobs per second by taskiq, against the same job with a session by hand.

    python benchmarks/jobs.py

Both do one INSERT and one COMMIT on PostgreSQL, in turns of 50 jobs, so that whatever else the machine does
meets both: on NATS JetStream, with a worker as in docs/examples/jobs, which runs five jobs at once and
fetches as many, and on the broker in memory, where one follows the other and next to nothing but the job
itself is done. Prints jobs per second of each, and the share that is kept: the median of the pairs of turns,
with the bounds that it lies between in 95 of 100 such runs.
"""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from taskiq import AsyncBroker, InMemoryBroker, TaskiqMessage, TaskiqMiddleware, TaskiqResult
from taskiq.receiver import Receiver
from taskiq_nats import PullBasedJetStreamBroker

from scoped_async import AsyncScopedSession
from scoped_async.taskiq import ScopeMiddleware

ROUNDS, JOBS, AT_ONCE = 80, 50, 5


class Base(DeclarativeBase):
    pass


class Line(Base):
    __tablename__ = "benchmark_line"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Done(TaskiqMiddleware):
    """Counts the jobs that are done."""

    def __init__(self, done: asyncio.Semaphore) -> None:
        super().__init__()
        self.done = done

    def post_execute(self, message: TaskiqMessage, result: TaskiqResult[Any]) -> None:
        self.done.release()


class Kind:
    """One way to write the job, on a broker of its own."""

    def __init__(self, broker: AsyncBroker, job: Callable[[], Awaitable[None]]) -> None:
        self.broker = broker
        self.done = asyncio.Semaphore(0)
        self.task = broker.register_task(job, "job")

    async def turn(self) -> float:
        """Seconds from the first job sent to the last one done."""
        started = time.perf_counter()
        for _ in range(JOBS):
            await self.task.kiq()
        for _ in range(JOBS):
            await self.done.acquire()
        return time.perf_counter() - started


@asynccontextmanager
async def working(broker: AsyncBroker) -> AsyncIterator[None]:
    """Connect, and work on what is sent."""
    await broker.startup()
    stop = asyncio.Event()
    receiver = Receiver(broker, max_async_tasks=AT_ONCE, run_startup=False, wait_tasks_timeout=0.1)
    listening = None if isinstance(broker, InMemoryBroker) else asyncio.create_task(receiver.listen(stop))
    yield
    stop.set()
    if listening is not None:
        await listening
    await broker.shutdown()


async def compare(
    title: str, factory: async_sessionmaker[AsyncSession], broker: Callable[[str], AsyncBroker]
) -> None:
    """Print how the two kinds of one engine stand."""
    Session = AsyncScopedSession(factory)

    async def scoped() -> None:
        await Session.execute(insert(Line).values(text="a"))

    async def handed() -> None:
        async with factory() as session:
            await session.execute(insert(Line).values(text="a"))
            await session.commit()

    kinds: list[Kind] = []
    for name, job in (("scoped", scoped), ("handed", handed)):
        kinds.append(Kind(broker(name), job))
    kinds[0].broker.add_middlewares(ScopeMiddleware())
    for kind in kinds:
        kind.broker.add_middlewares(Done(kind.done))
    async with working(kinds[0].broker), working(kinds[1].broker):
        for kind in kinds:
            await kind.turn()
        gc.collect()
        gc.freeze()  # what is there does not belong to what is measured
        times: list[tuple[float, float]] = []
        for _ in range(ROUNDS):  # each goes first as often as the other
            times.append((await kinds[0].turn(), await kinds[1].turn()))
            second = await kinds[1].turn()
            times.append((await kinds[0].turn(), second))
    ours, theirs = (median(JOBS / each[index] for each in times) for index in (0, 1))
    ratios = sorted(hand / scope for scope, hand in times)
    # Of a median: half of the pairs, give or take 1.96 times the root of a quarter of them.
    low, high = (ratios[round(len(ratios) / 2 + side * 0.98 * len(ratios) ** 0.5)] for side in (-1, 1))
    print(
        f"{title}: {ours:,.0f} jobs/s with the middleware, {theirs:,.0f} by hand: "
        f"{median(ratios):.3f} ({low:.3f} to {high:.3f})"
    )


async def main() -> None:
    logging.disable(logging.WARNING)
    sys.path.append(str(Path(__file__).parents[1] / "tests"))
    from nats_server import nats_server
    from postgres import postgres_server

    def on_nats(name: str) -> AsyncBroker:
        return PullBasedJetStreamBroker(
            [nats.url],
            subject=name,
            stream_name=name,
            durable=name,
            pull_consume_batch=AT_ONCE,
            pull_consume_timeout=0.5,
        )

    with postgres_server() as postgres, nats_server() as nats:
        engine = create_async_engine(postgres.url)
        factory = async_sessionmaker(engine, expire_on_commit=False)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        await compare("NATS JetStream", factory, on_nats)
        await compare("in memory", factory, lambda _: InMemoryBroker(await_inplace=True))
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main())
