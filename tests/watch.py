"""A pool of one connection that is watched, and a gate in the database that statements wait at.

    async with pool_of_one(postgres_url) as (engine, Session):
        ...

When the block is left, the connection must be in the pool, the next scopes must work, and neither the garbage
collector nor the loop's exception handler may have had anything to report.
"""

import asyncio
import gc
import secrets
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import asyncpg
import pytest
from sqlalchemy import UniqueConstraint, func, literal, make_url, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import QueuePool
from sqlalchemy.schema import CreateSchema, CreateTable

from scoped_async import AsyncScopedSession, Scope, scope

Proxy = AsyncScopedSession[AsyncSession]
Watched = tuple[AsyncEngine, Proxy]

PID = select(func.pg_backend_pid())
"""Which connection it is, as the server knows it."""


class Base(DeclarativeBase):
    pass


class Item(Base):
    """Two items of one name are refused by the COMMIT, not by the INSERT."""

    __tablename__ = "item"
    __table_args__ = (UniqueConstraint("name", deferrable=True, initially="DEFERRED"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@asynccontextmanager
async def pool_of_one(url: str, **options: Any) -> AsyncIterator[Watched]:
    """An engine with one connection, in a schema of its own with an empty ``item``, and its sessions."""
    async with schema(url) as name, silence():
        engine = one_connection(url, name, **options)
        Session = AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))
        try:
            yield engine, Session
            assert out(engine) == 0
            await assert_works(Session)
            assert out(engine) == 0
        finally:
            await engine.dispose()


class Watching:
    """Tests whose ``engine`` and ``Session`` are those of the fixture ``watched``."""

    @pytest.fixture
    def engine(self, watched: Watched) -> AsyncEngine:
        return watched[0]

    @pytest.fixture(name="Session")
    def session(self, watched: Watched) -> Proxy:
        return watched[1]


def one_connection(url: str, schema: str, **options: Any) -> AsyncEngine:
    """An engine that has no connection to spare."""
    arguments = {"server_settings": {"search_path": schema}, **options.pop("connect_args", {})}
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 5, **options}
    return create_async_engine(url, connect_args=arguments, **options)


@asynccontextmanager
async def schema(url: str) -> AsyncIterator[str]:
    """A schema with an empty table ``item``, dropped at the end."""
    name = f"test_{secrets.token_hex(8)}"
    engine = one_connection(url, name)
    async with engine.begin() as connection:
        await connection.execute(CreateSchema(name))
        await connection.execute(CreateTable(Base.metadata.tables["item"]))
    await engine.dispose()
    try:
        yield name
    finally:
        async with engine.begin() as connection:
            await connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
        await engine.dispose()


@asynccontextmanager
async def silence() -> AsyncIterator[None]:
    """Let nothing complain: no warning, and nothing on the loop's exception handler."""
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(f"{context}"))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            gc.collect()
            loop.set_exception_handler(None)
    complaints += [str(warning.message) for warning in warned]
    assert not complaints, complaints


def out(engine: AsyncEngine) -> int:
    """How many connections are checked out, this very moment."""
    return cast(QueuePool, engine.pool).checkedout()


async def assert_works(Session: Proxy) -> None:
    """The next scopes work, several in a row, on a connection that is in no transaction of somebody else."""
    for number in range(3):
        async with scope():
            assert await Session.scalar(answer(number)) == number
            assert await Session.scalar(text("SELECT statement_timestamp() - now() < interval '1 s'"))


async def names(Session: Proxy) -> list[str]:
    """What the table holds, as another scope sees it."""
    async with scope():
        return list(await Session.scalars(select(Item.name).order_by(Item.id)))


def answer(number: int) -> Any:
    """The statement that answers so."""
    return select(literal(number))


class Gate:
    """A lock in the database: what passes it waits until it is open."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.key = secrets.randbits(31)
        self._connection = connection
        self._lock = asyncio.Lock()

    def passing(self) -> Any:
        """The statement that passes the gate, and answers 7."""
        return answer(7).select_from(func.pg_advisory_xact_lock(self.key))

    async def at_commit(self, Session: Proxy) -> None:
        """Let every COMMIT that has inserted an item pass the gate."""
        async with scope(commit=True):
            await Session.execute(text(
                f"CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS "
                f"'BEGIN PERFORM pg_advisory_xact_lock({self.key}); RETURN NULL; END'"
            ))  # fmt: skip
            await Session.execute(text(
                "CREATE CONSTRAINT TRIGGER pass AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION pass()"
            ))  # fmt: skip

    async def waiting(self) -> int:
        """Return when somebody waits: the pid of its connection."""
        waiting = (
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = $1::bigint::oid AND NOT granted"
        )

        async def pid() -> Any:
            async with self._lock:
                return await self._connection.fetchval(waiting, self.key)

        return cast(int, await until(pid))

    async def kill(self) -> None:
        """Terminate the connection that waits, as an administrator would."""
        await self.tell(f"SELECT pg_terminate_backend({await self.waiting()}, 5000)")

    async def open(self) -> None:
        await self.tell(f"SELECT pg_advisory_unlock({self.key})")

    async def shut(self) -> None:
        await self.tell(f"SELECT pg_advisory_lock({self.key})")

    async def tell(self, statement: str) -> None:
        async with self._lock:
            await self._connection.execute(statement)


@asynccontextmanager
async def shut_gate(url: str) -> AsyncIterator[Gate]:
    """A gate that is shut, by a connection of its own."""
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(False))
    gate = Gate(connection)
    await gate.shut()
    try:
        yield gate
    finally:
        await connection.close()


async def until(condition: Callable[[], Awaitable[Any]], seconds: float = 30) -> Any:
    """Ask again and again until the answer is true, and return it."""
    async with asyncio.timeout(seconds):
        while not (found := await condition()):  # noqa: ASYNC110  # it is the server that is asked
            await asyncio.sleep(0.01)
        return found


async def is_asleep(engine: AsyncEngine, pid: int | None) -> bool:
    """Whether the server is in ``pg_sleep()`` for that connection."""
    asleep = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid AND wait_event = 'PgSleep'")
    async with engine.connect() as connection:
        return bool(await connection.scalar(asleep, {"pid": pid}))


async def terminated(postgres_url: str, pid: int) -> None:
    """Terminate a connection that waits for nothing."""
    async with shut_gate(postgres_url) as gate:
        await gate.tell(f"SELECT pg_terminate_backend({pid}, 5000)")


class Calls:
    """The callbacks that ran."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def register(self, current: Scope) -> None:
        current.after_commit(self.ran.append, "committed")
        current.after_rollback(self.ran.append, "rolled back")
