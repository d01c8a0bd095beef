"""SQLModel: its session has `exec()`, which a subclass of the proxy adds in one line."""

import asyncio
from typing import assert_type

import pytest
from sqlalchemy.engine import ScalarResult, TupleResult
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlmodel import Field, SQLModel, col, select, update
from sqlmodel.ext.asyncio.session import AsyncSession

from scoped_async import AsyncScopedSession, ConcurrentUseError, NoScopeError, scope
from scoped_async.session import delegate


class Hero(SQLModel, table=True):
    id: int = Field(primary_key=True)
    name: str


class HeroScopedSession(AsyncScopedSession[AsyncSession]):
    exec = delegate(AsyncSession.exec)


@pytest.fixture
async def session(sqlite_engine: AsyncEngine) -> HeroScopedSession:
    async with sqlite_engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    session = HeroScopedSession(
        async_sessionmaker(sqlite_engine, class_=AsyncSession, expire_on_commit=False)
    )
    async with scope(commit=True):
        session.add_all([Hero(id=1, name="Deadpond"), Hero(id=2, name="Rusty-Man")])
    return session


async def test_exec_returns_what_that_of_the_session_does(session: HeroScopedSession) -> None:
    async with scope():
        heroes = await session.exec(select(Hero).order_by(col(Hero.id)))
        assert_type(heroes, ScalarResult[Hero])
        assert [hero.name for hero in heroes] == ["Deadpond", "Rusty-Man"]
        pairs = await session.exec(select(Hero.id, Hero.name))
        assert_type(pairs, TupleResult[tuple[int, str]])
        assert pairs.first() == (1, "Deadpond")


async def test_exec_writes(session: HeroScopedSession) -> None:
    async with scope(commit=True):
        await session.exec(update(Hero).values(name="Spider-Boy"))
    async with scope():
        assert (await session.exec(select(Hero.name).distinct())).all() == ["Spider-Boy"]


async def test_exec_is_one_operation_of_the_scope(session: HeroScopedSession) -> None:
    async with scope():
        results = await asyncio.gather(
            session.exec(select(Hero)), session.exec(select(Hero)), return_exceptions=True
        )
        assert isinstance(results[1], ConcurrentUseError)
    with pytest.raises(NoScopeError, match=r"Session\.exec"):
        await session.exec(select(Hero))
