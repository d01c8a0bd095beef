"""What the jobs of the tests do, and what the database tells of them."""

import asyncio
from enum import StrEnum

from sqlalchemy import func, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from entries import Entry, Sessions, break_the_commit, stored, write
from scoped_async import current_scope, scope
from watch import until


class Row(StrEnum):
    """What befalls a job."""

    SUCCESS = "success"
    BODY_FAILS = "the body fails"
    COMMIT_FAILS = "the commit fails"
    RETRY = "fails once, then succeeds"
    TIMEOUT = "a timeout"
    CANCELLED = "cancelled"
    SHUT_DOWN = "the worker is shut down in the middle"
    KILLED = "the worker is killed in the middle"


EFFECT = {"effect"}
DELIVERY = "delivery"


class Ledger:
    """Where every job writes ``effect`` in its scope, and before that a ``delivery`` in one of its own."""

    def __init__(self, engine: AsyncEngine, session: Sessions) -> None:
        self.engine = engine
        self.session = session
        self.hanging = asyncio.Queue[asyncio.Task[object]]()
        """The jobs that have written and wait for ever."""
        self.scope_names: list[str] = []
        self.seen_at_result: list[set[str]] = []
        """What was committed each time that the engine was about to tell of a result."""

    async def job(self, row: str) -> str:
        """Write, and then meet the fate of ``row``: a second delivery meets none."""
        self.scope_names.append(current_scope().name)
        async with scope(commit=True):
            await self.session.execute(insert(Entry).values(text=DELIVERY))
            first = await self.deliveries() == 1
        await write(self.session, *EFFECT)
        match row:
            case Row.BODY_FAILS:
                raise LookupError("a mistake of the job")
            case Row.COMMIT_FAILS:
                await break_the_commit(self.session)
            case Row.RETRY if first:
                raise LookupError("a mistake that passes")
            case Row.TIMEOUT:
                await self._hang()
            case Row.CANCELLED | Row.SHUT_DOWN | Row.KILLED if first:
                await self._hang()
            case _:
                pass
        return "done"

    async def _hang(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.hanging.put_nowait(task)
        await asyncio.Event().wait()

    async def deliveries(self) -> int:
        """How many times a job has begun."""
        statement = select(func.count()).where(Entry.text == DELIVERY)
        return await self.session.scalar(statement) or 0

    async def look(self) -> None:
        """Note what is committed: the engine is about to tell of a result."""
        self.seen_at_result.append(await self.effects())

    async def effects(self) -> set[str]:
        """What the jobs have done for good."""
        return await stored(self.engine) - {DELIVERY}


async def connections_of(engine: AsyncEngine, worker: str, state: str = "%") -> int:
    """How many connections of a worker process the server sees."""
    async with engine.connect() as connection:
        statement = text(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = :name AND state LIKE :state"
        )
        return await connection.scalar(statement, {"name": worker, "state": state}) or 0


async def until_it_hangs(engine: AsyncEngine, worker: str) -> None:
    """Return when the job of a worker process has written, and not committed."""
    await until(lambda: _hangs(engine, worker))


async def _hangs(engine: AsyncEngine, worker: str) -> bool:
    delivered = DELIVERY in await stored(engine)
    return delivered and await connections_of(engine, worker, "idle in transaction") == 1


def engine_of_worker(url: str, worker: str) -> AsyncEngine:
    """The engine of a worker process, whose connections the server knows by name."""
    return create_async_engine(url, connect_args={"server_settings": {"application_name": worker}})
