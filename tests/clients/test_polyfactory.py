"""polyfactory: its async factories save through the proxy, in the scope that is current."""

import pytest
from polyfactory.factories.sqlalchemy_factory import SQLAlchemyFactory, SQLAlchemyPersistenceMethod
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from scoped_async import AsyncScopedSession, NoScopeError, scope

Session = AsyncScopedSession(async_sessionmaker(expire_on_commit=False))


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "factory_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Committing(SQLAlchemyFactory[Author]):
    __async_session__ = Session
    __set_primary_key__ = False


class Flushing(SQLAlchemyFactory[Author]):
    # Given a scoped session a factory calls remove() when it is done, which would lose what was flushed.
    __async_session__ = Session.__call__
    __set_primary_key__ = False
    __persistence_method__ = SQLAlchemyPersistenceMethod.FLUSH


@pytest.fixture(autouse=True)
async def database(sqlite_engine: AsyncEngine) -> None:
    Session.configure(bind=sqlite_engine)
    async with sqlite_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)


async def count() -> int | None:
    async with scope():
        found: int | None = await Session.scalar(select(func.count()).select_from(Author))
        return found


async def test_a_factory_that_commits() -> None:
    async with scope():
        author = await Committing.create_async(name="Ada")
        assert (author.id, author.name) == (1, "Ada")
    assert await count() == 1


async def test_a_factory_that_flushes_leaves_the_outcome_to_the_scope() -> None:
    for commit, expected in ((False, 0), (True, 3)):
        async with scope(commit=commit):
            await Flushing.create_batch_async(3)
        assert await count() == expected


async def test_a_factory_needs_a_scope() -> None:
    with pytest.raises(NoScopeError):
        await Flushing.create_async()
