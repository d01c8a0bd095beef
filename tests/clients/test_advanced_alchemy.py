"""advanced-alchemy: a repository takes the proxy once, and works in whichever scope it is called."""

import pytest
from advanced_alchemy.base import BigIntBase
from advanced_alchemy.filters import LimitOffset, OrderBy
from advanced_alchemy.repository import SQLAlchemyAsyncRepository
from advanced_alchemy.service import SQLAlchemyAsyncRepositoryService
from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import Mapped

from scoped_async import AsyncScopedSession, NoScopeError, scope


class Author(BigIntBase):
    __tablename__ = "alchemy_author"
    name: Mapped[str]


class AuthorRepository(SQLAlchemyAsyncRepository[Author]):
    model_type = Author


class AuthorService(SQLAlchemyAsyncRepositoryService[Author, AuthorRepository]):
    repository_type = AuthorRepository


@pytest.fixture
async def repository(sqlite_engine: AsyncEngine) -> AuthorRepository:
    table = Author.__table__
    assert isinstance(table, Table)
    async with sqlite_engine.begin() as connection:
        await connection.run_sync(table.create)
    session = AsyncScopedSession(async_sessionmaker(sqlite_engine, expire_on_commit=False))
    async with scope():  # the constructor asks the session for its dialect
        return AuthorRepository(session=session)


async def names(repository: AuthorRepository) -> list[str]:
    async with scope():
        return [author.name for author in await repository.get_many(OrderBy("id"))]


async def test_one_repository_writes_in_the_scope_of_each_call(repository: AuthorRepository) -> None:
    async with scope(commit=True):
        await repository.add(Author(name="Austen"))
    async with scope():
        await repository.add(Author(name="never committed"))
    async with scope(commit=True):
        added = await repository.add_many([Author(name="Borges"), Author(name="Calvino")])
        added[0].name = "Byatt"
        await repository.update(added[0])
        await repository.delete(added[1].id)
    assert await names(repository) == ["Austen", "Byatt"]


async def test_it_reads(repository: AuthorRepository) -> None:
    async with scope(commit=True):
        await repository.add_many([Author(name=name) for name in "abcde"])
    async with scope():
        page, total = await repository.get_many_and_count(LimitOffset(2, 1), OrderBy("name"))
        assert ([author.name for author in page], total) == (["b", "c"], 5)
        assert (await repository.get_one(name="d")).name == "d"
        assert await repository.count() == 5
        assert await repository.exists(name="e")


async def test_a_service(repository: AuthorRepository) -> None:
    async with scope(commit=True):
        service = AuthorService(session=repository.session)
        author = await service.create({"name": "Dickens"})
        await service.update({"name": "Defoe"}, item_id=author.id)
    assert await names(repository) == ["Defoe"]


async def test_without_a_scope(repository: AuthorRepository) -> None:
    with pytest.raises(NoScopeError):
        await repository.add(Author(name="Eco"))
