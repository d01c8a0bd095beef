"""Every promise of the middlewares, kept by every engine: what becomes of a job in each of its fates."""

import os
import signal
import sys
from asyncio.subprocess import create_subprocess_exec
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from engines import ENGINES, IN_MEMORY, Taskiq, all_acknowledged
from job_ledger import EFFECT, Ledger, Row, connections_of, until_it_hangs

from nats_server import NatsServer
from scoped_async import scope
from watch import until


class Fate(NamedTuple):
    """What must be true when all is over."""

    error: str | None
    """What the last result names; ``None``: the job returned."""
    effects: set[str]
    deliveries: int


DONE = Fate(None, EFFECT, 1)
DONE_AT_LAST = Fate(None, EFFECT, 2)
NOTHING = set[str]()

FATES = {
    Row.SUCCESS: dict.fromkeys(ENGINES, DONE),
    Row.BODY_FAILS: dict.fromkeys(ENGINES, Fate("LookupError", NOTHING, 1)),
    # The error itself; but taskiq sends as a plain Exception what it cannot make again from its arguments.
    Row.COMMIT_FAILS: {
        **dict.fromkeys(ENGINES, Fate("IntegrityError", NOTHING, 1)),
        "taskiq-nats": Fate("Exception", NOTHING, 1),
    },
    # FastStream's test broker delivers once, whatever the handler says.
    Row.RETRY: {**dict.fromkeys(ENGINES, DONE_AT_LAST), "faststream": Fate("LookupError", NOTHING, 1)},
    Row.TIMEOUT: dict.fromkeys(ENGINES, Fate("TimeoutError", NOTHING, 1)),
    # taskiq takes the cancellation of a job for its failure; FastStream acknowledges nothing.
    Row.CANCELLED: {
        **dict.fromkeys(ENGINES, Fate("CancelledError", NOTHING, 1)),
        "faststream-nats": DONE_AT_LAST,
    },
}

in_process = pytest.mark.parametrize(
    ("name_of_engine", "row", "fate"),
    [(engine, row, fate) for row, fates in FATES.items() for engine, fate in fates.items()],
    ids=lambda value: value if isinstance(value, str) else "",
)


class TestInOneProcess:
    """Body, COMMIT, then the result and the acknowledgement; else nothing is kept, and no connection out."""

    @in_process
    async def test_fate(
        self, ledger: Ledger, nats: NatsServer, name: str, name_of_engine: str, row: Row, fate: Fate
    ) -> None:
        engine = ENGINES[name_of_engine](ledger, nats.url, name)
        async with engine.connected(), engine.running():
            outcome = await engine.send(row)
            if row is Row.CANCELLED:
                (await ledger.hanging.get()).cancel()
            ends = 1 if isinstance(engine, Taskiq) else fate.deliveries
            for _ in range(ends):
                returned, error = await outcome()
            await all_acknowledged(engine)
        assert (returned, error) == (None if fate.error else "done", fate.error)
        assert await ledger.effects() == fate.effects
        assert ledger.seen_at_result[-1:] in ([fate.effects], [])
        async with scope():
            assert await ledger.deliveries() == fate.deliveries

    @pytest.mark.parametrize("name_of_engine", ENGINES)
    async def test_committed_before_the_result(
        self, ledger: Ledger, nats: NatsServer, name: str, name_of_engine: str
    ) -> None:
        """Before the result is stored, or the reply sent, the database holds what the job has done."""
        engine = ENGINES[name_of_engine](ledger, nats.url, name)
        async with engine.connected(), engine.running():
            outcome = await engine.send(Row.SUCCESS)
            await outcome()
            await all_acknowledged(engine)
        assert ledger.seen_at_result == [EFFECT]
        assert ledger.scope_names == ["transfer"]


@asynccontextmanager
async def worker(
    ledger: Ledger, nats: NatsServer, name: str, engine: str, row: Row, sent: signal.Signals
) -> AsyncIterator[None]:
    """A worker process, started anew, that the signal ends."""
    program = str(Path(__file__).with_name("job_worker.py"))
    url = ledger.engine.url.render_as_string(hide_password=False)
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests)])}
    process = await create_subprocess_exec(
        sys.executable, program, engine, url, nats.url, name, row, env=environment
    )
    try:
        yield
        process.send_signal(sent)
    except BaseException:
        process.kill()
        raise
    finally:
        await process.wait()


@pytest.mark.parametrize("name_of_engine", ENGINES)
@pytest.mark.parametrize(
    ("row", "sent"),
    [(Row.SHUT_DOWN, signal.SIGTERM), (Row.KILLED, signal.SIGKILL)],
    ids=["shut down", "killed"],
)
class TestWorkerThatEnds:
    """Its job is rolled back, the server sees no connection of it, and another worker does the job."""

    async def test_fate(
        self, ledger: Ledger, nats: NatsServer, name: str, name_of_engine: str, row: Row, sent: signal.Signals
    ) -> None:
        engine = ENGINES[name_of_engine](ledger, nats.url, name)
        if name_of_engine not in IN_MEMORY:
            async with engine.connected():
                await engine.send(row)
        async with worker(ledger, nats, name, name_of_engine, row, sent):
            await until_it_hangs(ledger.engine, name)
        await until(lambda: no_connections(ledger, name))
        assert await ledger.effects() == NOTHING

        if name_of_engine not in IN_MEMORY:
            async with worker(ledger, nats, name, name_of_engine, row, signal.SIGTERM):
                await until(ledger.effects)
            await until(lambda: no_connections(ledger, name))
        async with scope():
            assert await ledger.deliveries() == (1 if name_of_engine in IN_MEMORY else 2)


async def no_connections(ledger: Ledger, name: str) -> bool:
    return await connections_of(ledger.engine, name) == 0
