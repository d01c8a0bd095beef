"""A table for the tests of units of work: what they write into it, and what of that the database holds."""

from collections.abc import Awaitable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import ForeignKey, insert, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from scoped_async import AsyncScopedSession, current_scope, scope

Sessions = AsyncScopedSession[AsyncSession]


class Base(DeclarativeBase):
    pass


class Entry(Base):
    """A line of text; one with a parent that is not there lets the commit fail."""

    __tablename__ = "entries"

    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    parent_id: Mapped[int | None] = mapped_column(
        ForeignKey("entries.id", deferrable=True, initially="DEFERRED")
    )


async def scoped_session(engine: AsyncEngine) -> Sessions:
    """A proxy over ``engine``, and the table there, empty."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    return AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))


async def write(session: Sessions | AsyncSession, *lines: str) -> None:
    """Insert the texts, one statement each, in the transaction of ``session``."""
    for line in lines:
        await session.execute(insert(Entry).values(text=line))


async def break_the_commit(session: Sessions | AsyncSession) -> None:
    """Write what only the COMMIT refuses."""
    await session.execute(insert(Entry).values(text="without a parent", parent_id=-1))


async def stored(engine: AsyncEngine) -> set[str]:
    """The texts that are committed."""
    async with engine.connect() as connection:
        return set(await connection.scalars(select(Entry.text)))


async def die_at_commit(engine: AsyncEngine) -> None:
    """Let the server end each connection in the middle of its COMMIT, after a write to the table."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS "
                "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'"
            )
        )
        await connection.execute(
            text(
                "CREATE CONSTRAINT TRIGGER dies AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION die()"
            )
        )


async def asyncpg_of(session: Sessions | AsyncSession) -> asyncpg.Connection:
    """asyncpg's own connection, under SQLAlchemy's."""
    real = session if isinstance(session, AsyncSession) else session()
    connection: Any = (await (await real.connection()).get_raw_connection()).driver_connection
    return connection


class Log(list[str]):
    """What the callbacks left, in order."""

    def watch(self, name: str = "") -> None:
        """Register one callback for each fate with the current scope."""
        current_scope().after_commit(self.append, f"{name} committed".strip())
        current_scope().after_rollback(self.append, f"{name} rolled back".strip())


async def fail_after(write: Awaitable[None]) -> None:
    """A nested block that writes and fails, and whose failure is swallowed."""
    with pytest.raises(LookupError):
        async with scope(propagation="nested"):
            await write
            raise LookupError
