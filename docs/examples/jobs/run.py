"""The whole ledger on this machine, with workers that are killed while it works: `python run.py`.

It starts PostgreSQL, NATS, the service and the workers, makes its transfers, and ends with a table. The exit
status is 0 when every transfer had its effect exactly once.
"""

import argparse
import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parents[2] / "tests")]  # the launchers of the servers are the tests'

ACCOUNTS = 500
OPENING_BALANCE = 1000
BATCH = 20
WORKERS = 4
Numbers = dict[str, Any]


class Workers:
    """The worker processes, living and dead."""

    def __init__(self, log: Path) -> None:
        self._log = log.open("ab")
        self.living: list[subprocess.Popen[bytes]] = []
        self.killed: list[int] = []

    def start(self, count: int = 1) -> None:
        for _ in range(count):
            self.living.append(start("worker.py", log=self._log))

    def kill_one(self) -> None:
        """What a machine that fails does to a worker."""
        victim = self.living.pop(random.randrange(len(self.living)))
        victim.kill()
        victim.wait()
        self.killed.append(victim.pid)

    def stop(self) -> None:
        for process in self.living:
            process.terminate()
        for process in self.living:
            process.wait()
        self.living.clear()


def start(*command: str, log: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, *command], cwd=HERE, stdout=log, stderr=log)


@contextmanager
def service(log: Path, port: int) -> Iterator[str]:
    """The FastAPI service in two processes."""
    options = ["--workers", "2", "--port", str(port), "--log-level", "warning"]
    with log.open("ab") as file:
        process = start("-m", "uvicorn", "api:app", *options, log=file)
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGINT)
            process.wait()


async def send(url: str, name: str, count: int) -> None:
    """Make transfers as clients do: who gets no answer asks again, with the same id."""
    chance = random.Random(name)
    batches = []
    for number in range(0, count, BATCH):
        batch = []
        for job in range(number, min(number + BATCH, count)):
            payer, payee = chance.sample(range(ACCOUNTS), 2)
            amount = chance.randint(1, 400)
            batch.append({"job": f"{name}-{job}", "payer": payer, "payee": payee, "amount": amount})
        batches.append(batch)

    async def client(http: httpx.AsyncClient) -> None:
        while batches:
            batch = batches.pop()
            while not await accepted(http, batch):  # noqa: ASYNC110  # it is the service that is asked
                await asyncio.sleep(0.2)

    async with httpx.AsyncClient(base_url=url, timeout=30) as http, asyncio.TaskGroup() as clients:
        for _ in range(4):
            clients.create_task(client(http))


async def accepted(http: httpx.AsyncClient, batch: list[dict[str, Any]]) -> bool:
    try:
        return (await http.post("/transfers", json=batch)).is_success
    except httpx.TransportError:
        return False


async def count_done(name: str) -> int:
    from ledger import Done, Session
    from sqlalchemy import func, select

    from scoped_async import scope

    async with scope(readonly=True):
        return await Session.scalar(select(func.count()).where(Done.job.startswith(f"{name}-"))) or 0


async def until_done(name: str, count: int, watch: Callable[[int], None] = lambda done: None) -> float:
    """Wait until so many are done; return how many a second that were, from the first on."""
    first: tuple[float, int] | None = None
    while (done := await count_done(name)) < count:
        if done and first is None:
            first = time.perf_counter(), done
        watch(done)
        await asyncio.sleep(0.2)
    watch(done)
    began, before = first or (time.perf_counter() - 0.2, 0)
    return (done - before) / (time.perf_counter() - began)


async def measure(url: str, workers: Workers, count: int, console: Console) -> dict[int, float]:
    """Jobs per second, by how many workers there are: the jobs are in the queue before they start."""
    speeds = {}
    for number in (1, 2, 4):
        await send(url, f"speed{number}", count)
        await until_outbox_is_empty()
        workers.start(number)
        speeds[number] = await until_done(f"speed{number}", count)
        workers.stop()
        console.print(f"{number} workers: {speeds[number]:,.0f} jobs per second")
    return speeds


async def until_outbox_is_empty() -> None:
    from ledger import Outbox, Session
    from sqlalchemy import func, select

    from scoped_async import scope

    left = 1
    while left:
        await asyncio.sleep(0.1)
        async with scope(readonly=True):
            left = await Session.scalar(select(func.count()).select_from(Outbox)) or 0


async def under_fire(
    url: str, workers: Workers, options: argparse.Namespace, restart: Callable[[], None] | None
) -> float:
    """The transfers, while workers are killed at random moments and the queue is restarted once."""
    count = options.transfers
    moments = sorted(random.sample(range(count // 20, count * 9 // 10), options.kills))
    workers.start(WORKERS)
    restarting: asyncio.Task[None] | None = None
    with Progress() as progress:
        bar = progress.add_task("Transfers", total=count)

        def watch(done: int) -> None:
            nonlocal restarting
            progress.update(bar, completed=done)
            if moments and done >= moments[0]:  # one at a time: it is a new worker that is killed next
                moments.pop(0)
                workers.kill_one()
                workers.start()
            if restart is not None and restarting is None and done > count // 2:
                restarting = asyncio.create_task(asyncio.to_thread(restart))

        sending = asyncio.create_task(send(url, "fire", count))
        speed = await until_done("fire", count, watch)
        await sending
    for _ in moments:  # what came too late for its moment
        workers.kill_one()
        workers.start()
    if restarting is not None:
        await restarting
    return speed


async def settle(broker_url: str) -> int | None:
    """Wait until the queue is empty; return how many deliveries there were, where it counts them."""
    if broker_url.startswith("redis"):
        from redis.asyncio import Redis

        async with Redis.from_url(broker_url) as redis:
            while True:
                (workers,) = await redis.xinfo_groups("ledger")
                if not workers["pending"] and not workers["lag"]:
                    return None
                await asyncio.sleep(0.2)
    import nats

    client = await nats.connect(broker_url)
    try:
        while True:
            info = await client.jetstream().consumer_info("ledger", "ledger")
            if not info.num_pending and not info.num_ack_pending and info.delivered is not None:
                deliveries: int = info.delivered.consumer_seq
                return deliveries
            await asyncio.sleep(0.2)
    finally:
        await client.close()


async def account(killed: list[int]) -> Numbers:
    """What the database says, all of it in one transaction."""
    from ledger import Account, Done, Duplicate, Session
    from sqlalchemy import func, select, text

    from scoped_async import scope

    async with scope(readonly=True):
        balances = {row.id: row.balance for row in await Session.scalars(select(Account))}
        replayed = dict.fromkeys(balances, OPENING_BALANCE)
        overdrawn = made = 0
        for done in await Session.scalars(select(Done)):
            overdrawn, made = overdrawn + done.overdrawn, made + (not done.overdrawn)
            if not done.overdrawn:
                replayed[done.payer] -= done.amount
                replayed[done.payee] += done.amount
        names = [f"ledger-{pid}" for pid in killed]
        connections = text("SELECT count(*) FROM pg_stat_activity WHERE application_name = ANY(:names)")
        return {
            "applied": made,
            "failed by rule": overdrawn,
            "duplicates refused": await Session.scalar(select(func.count()).select_from(Duplicate)),
            "sum after": sum(balances.values()),
            "connections of killed workers": await Session.scalar(connections, {"names": names}),
            "every balance is that of its transfers": balances == replayed,
        }


async def run(options: argparse.Namespace, folder: Path, restart: Callable[[], None] | None) -> bool:
    from ledger import Account, Base, Session, engine

    from postgres import free_port
    from scoped_async import scope

    console = Console()
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    async with scope(commit=True):
        Session.add_all(Account(id=number, balance=OPENING_BALANCE) for number in range(ACCOUNTS))

    workers = Workers(folder / "workers.log")
    with service(folder / "service.log", free_port()) as url:
        try:
            speeds = await measure(url, workers, options.speed, console)
            speeds_under_fire = await under_fire(url, workers, options, restart)
            deliveries = await settle(os.environ["LEDGER_BROKER"])
        finally:
            workers.stop()
    numbers = await account(workers.killed)
    await engine.dispose()

    sent, before = options.transfers + 3 * options.speed, ACCOUNTS * OPENING_BALANCE
    table = Table(title=f"{WORKERS} workers, {len(workers.killed)} of them killed", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {"jobs sent": sent, "deliveries": deliveries, **numbers, "sum before": before}
    for name, value in rows.items():
        table.add_row(name, f"{value:,}" if type(value) is int else str(value))
    for number, speed in speeds.items():
        table.add_row(f"jobs per second, {number} workers", f"{speed:,.0f}")
    table.add_row("jobs per second, under fire", f"{speeds_under_fire:,.0f}")
    console.print(table)
    checks = (
        numbers["applied"] + numbers["failed by rule"] == sent,
        numbers["sum after"] == before,
        numbers["every balance is that of its transfers"],
        numbers["connections of killed workers"] == 0,
    )
    return all(checks)


def main() -> int:
    parser = argparse.ArgumentParser(description="A ledger whose workers are killed while it works.")
    parser.add_argument("--transfers", type=int, default=20_000, help="made while workers are killed")
    parser.add_argument("--kills", type=int, default=12, help="how many workers are killed")
    parser.add_argument("--speed", type=int, default=1_000, help="transfers of each measurement of speed")
    parser.add_argument("--database", help="a PostgreSQL of yours; its tables jobs_* are replaced")
    queue = parser.add_mutually_exclusive_group()
    queue.add_argument("--nats", help="a NATS of yours, with JetStream and without a stream `ledger`")
    queue.add_argument("--redis", help="a Redis of yours, without a stream `ledger`; needs taskiq-redis")
    options = parser.parse_args()

    import tempfile

    from nats_server import nats_server
    from postgres import postgres_server

    restart = None
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        queue_url = options.nats or options.redis
        if queue_url is None:
            nats = stack.enter_context(nats_server())
            queue_url = nats.url

            def restart() -> None:
                nats.stop()
                nats.start()

        database = options.database or stack.enter_context(postgres_server()).url
        os.environ.update(LEDGER_DATABASE=database, LEDGER_BROKER=queue_url)
        if asyncio.run(run(options, folder, restart)):
            print("Every transfer had its effect exactly once.")
            return 0
        for log in folder.glob("*.log"):
            print(f"--- {log.name}\n{log.read_text()[-4000:]}")
    print("The ledger is broken: see the table.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
