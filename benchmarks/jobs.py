"""What the scope of a job costs: jobs per second by taskiq's broker in memory, against a session by hand.

    python benchmarks/jobs.py [DATABASE]

Both do one INSERT and one COMMIT on PostgreSQL, in turns of a few jobs, so that whatever else the machine
does meets both. Prints jobs per second of each by CPU time and by the clock, and the share that is kept.
"""

import asyncio
import gc
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from taskiq import InMemoryBroker

from scoped_async import AsyncScopedSession
from scoped_async.taskiq import ScopeMiddleware

TURNS, JOBS = 60, 20


class Base(DeclarativeBase):
    pass


class Line(Base):
    __tablename__ = "benchmark_line"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


async def turn(kick: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    gc.collect()
    clock, cpu = time.perf_counter(), time.process_time()
    for _ in range(JOBS):
        await kick()
    return time.perf_counter() - clock, time.process_time() - cpu


async def main(url: str) -> None:
    logging.disable(logging.WARNING)
    engine = create_async_engine(url)
    factory = async_sessionmaker(engine, expire_on_commit=False)
    Session = AsyncScopedSession(factory)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    with_scope, by_hand = InMemoryBroker(await_inplace=True), InMemoryBroker(await_inplace=True)
    with_scope.add_middlewares(ScopeMiddleware())

    @with_scope.task
    async def scoped() -> None:
        await Session.execute(insert(Line).values(text="a"))

    @by_hand.task
    async def handed() -> None:
        async with factory() as session:
            await session.execute(insert(Line).values(text="a"))
            await session.commit()

    for kick in (scoped.kiq, handed.kiq):
        await turn(kick)
    times = [(await turn(scoped.kiq), await turn(handed.kiq)) for _ in range(TURNS)]
    for name, index in (("by CPU time", 1), ("by the clock", 0)):
        ours = median(JOBS / scope[index] for scope, _ in times)
        theirs = median(JOBS / hand[index] for _, hand in times)
        kept = median(hand[index] / scope[index] for scope, hand in times)
        print(f"{name}: {ours:,.0f} jobs/s with the middleware, {theirs:,.0f} by hand: {kept:.3f}")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()


if __name__ == "__main__":
    with ExitStack() as stack:
        if len(sys.argv) > 1:
            url = sys.argv[1]
        else:
            sys.path.append(str(Path(__file__).parents[1] / "tests"))
            from postgres import postgres_server

            url = stack.enter_context(postgres_server()).url
        asyncio.run(main(url))
