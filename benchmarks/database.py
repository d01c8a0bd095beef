"""The database that all are measured on: one engine, one sessionmaker, one table, one statement."""

import os

from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from . import ADDRESS

# An engine connects when it is used: what does not touch the database needs no server.
engine = create_async_engine(
    os.environ.get(ADDRESS, "postgresql+asyncpg://postgres@127.0.0.1/postgres"), pool_size=5, pool_timeout=300
)
sessions = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The tables of the benchmarks."""


class Entry(Base):
    """A line of a ledger."""

    __tablename__ = "benchmark_entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[int]


SELECT = select(Entry.amount).where(Entry.id == 1)


async def create_table() -> None:
    """Make the table anew, with the one row that is read."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    async with sessions.begin() as session:
        session.add(Entry(amount=1))
