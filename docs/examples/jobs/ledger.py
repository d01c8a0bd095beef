"""The ledger: its tables, the broker, and the one job, whose effect happens exactly once."""

import os

from sqlalchemy import Identity, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from taskiq import AsyncBroker, SimpleRetryMiddleware

from scoped_async import AsyncScopedSession
from scoped_async.taskiq import ScopeMiddleware

BROKER_URL = os.environ["LEDGER_BROKER"]
BY_REDIS = BROKER_URL.startswith("redis")
PROCESS = f"ledger-{os.getpid()}"
"""What PostgreSQL knows this process by."""
ACK_WAIT = 5
"""Seconds after which a job that nobody has acknowledged is delivered again."""
JOBS_AT_ONCE = 5
"""How many a worker has in hand; it needs no more connections than that."""

engine = create_async_engine(
    os.environ["LEDGER_DATABASE"],
    pool_size=JOBS_AT_ONCE,
    max_overflow=0,
    connect_args={"server_settings": {"application_name": PROCESS}},
)
Session = AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "jobs_account"

    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


class Done(Base):
    """A transfer that has been decided: made, or refused by the rule that no account is overdrawn."""

    __tablename__ = "jobs_done"

    job: Mapped[str] = mapped_column(primary_key=True)
    payer: Mapped[int]
    payee: Mapped[int]
    amount: Mapped[int]
    overdrawn: Mapped[bool] = mapped_column(default=False)


class Duplicate(Base):
    """A delivery of a job that was done already."""

    __tablename__ = "jobs_duplicate"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    job: Mapped[str]


class Outbox(Base):
    """A transfer that was accepted, and is still to be sent."""

    __tablename__ = "jobs_outbox"

    job: Mapped[str] = mapped_column(primary_key=True)
    payer: Mapped[int]
    payee: Mapped[int]
    amount: Mapped[int]


def create_broker() -> AsyncBroker:
    """A durable queue that delivers until it is told that a job is done."""
    if BY_REDIS:
        from taskiq_redis import RedisStreamBroker

        by_redis: AsyncBroker = RedisStreamBroker(
            BROKER_URL,
            queue_name="ledger",
            consumer_id="0",  # also what was sent before the first worker came
            idle_timeout=ACK_WAIT * 1000,
            xread_count=JOBS_AT_ONCE,
        )
        return by_redis
    from nats.js.api import ConsumerConfig
    from taskiq_nats import PullBasedJetStreamBroker

    return PullBasedJetStreamBroker(
        BROKER_URL,
        subject="ledger",
        stream_name="ledger",
        durable="ledger",
        consumer_config=ConsumerConfig(durable_name="ledger", ack_wait=ACK_WAIT),
        pull_consume_batch=JOBS_AT_ONCE,
        pull_consume_timeout=1,
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.2,
    )


broker = create_broker()
# taskiq acknowledges a job that has failed too, so whatever is to be tried again is sent again.
broker.add_middlewares(
    SimpleRetryMiddleware(default_retry_count=10, default_retry_label=True), ScopeMiddleware()
)


@broker.task("transfer")
async def transfer(job: str, payer: int, payee: int, amount: int) -> None:
    # Exactly once: the transaction that has the effect also stores the id of the job.
    done = insert(Done).values(job=job, payer=payer, payee=payee, amount=amount, overdrawn=False)
    if await Session.scalar(done.on_conflict_do_nothing().returning(Done.job)) is None:
        Session.add(Duplicate(job=job))  # for the report; a plain `return` is enough
        return

    # In the order of their ids, so that two transfers do not wait for each other.
    pair = select(Account).where(Account.id.in_([payer, payee])).order_by(Account.id).with_for_update()
    accounts = {account.id: account for account in await Session.scalars(pair)}
    if accounts[payer].balance < amount:
        (await Session.get_one(Done, job)).overdrawn = True
        return
    accounts[payer].balance -= amount
    accounts[payee].balance += amount


@broker.task("wake", scope=False)
async def wake() -> None:
    """Sent now and then: taskiq-redis looks for what a dead worker had in hand when something new arrives."""
