"""fastapi-pagination: it takes the proxy where it takes a session, with SQLModel too."""

from typing import Any

import pytest
from fastapi import FastAPI
from fastapi_pagination import Page, Params, add_pagination
from fastapi_pagination.ext.sqlalchemy import apaginate
from fastapi_pagination.ext.sqlmodel import apaginate as apaginate_sqlmodel
from httpx import ASGITransport, AsyncClient
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlmodel import Field, SQLModel, col
from sqlmodel.ext.asyncio.session import AsyncSession as SQLModelSession

from scoped_async import AsyncScopedSession, NoScopeError, scope


class Item(SQLModel, table=True):
    id: int = Field(primary_key=True)


@pytest.fixture(autouse=True)
async def items(sqlite_engine: AsyncEngine) -> None:
    """Five items."""
    async with sqlite_engine.begin() as connection:
        await connection.run_sync(SQLModel.metadata.create_all)
    async with AsyncSession(sqlite_engine) as session, session.begin():
        session.add_all([Item(id=number) for number in range(1, 6)])


def numbers(page: Any) -> tuple[list[int], int]:
    return [item.id for item in page.items], page.total


async def test_a_page(sqlite_engine: AsyncEngine) -> None:
    session = AsyncScopedSession(async_sessionmaker(sqlite_engine))
    async with scope():
        page = await apaginate(session, select(Item).order_by(col(Item.id)), Params(page=2, size=2))
        assert numbers(page) == ([3, 4], 5)


async def test_a_page_of_sqlmodel(sqlite_engine: AsyncEngine) -> None:
    session = AsyncScopedSession(async_sessionmaker(sqlite_engine, class_=SQLModelSession))
    async with scope():
        page = await apaginate_sqlmodel(session, Item, Params(size=3))
        assert numbers(page) == ([1, 2, 3], 5)


async def test_behind_a_route(sqlite_engine: AsyncEngine) -> None:
    session = AsyncScopedSession(async_sessionmaker(sqlite_engine))
    app = FastAPI()

    @app.get("/items", response_model=Page[Item])
    @scope(readonly=True)
    async def list_items() -> Any:
        return await apaginate(session, select(Item).order_by(col(Item.id)))

    add_pagination(app)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        answer = (await client.get("/items", params={"page": 3, "size": 2})).json()
    assert (answer["items"], answer["total"], answer["pages"]) == ([{"id": 5}], 5, 3)


async def test_without_a_scope(sqlite_engine: AsyncEngine) -> None:
    session = AsyncScopedSession(async_sessionmaker(sqlite_engine))
    with pytest.raises(NoScopeError):
        await apaginate(session, select(Item), Params())
    with pytest.raises(NoScopeError):
        await apaginate_sqlmodel(session, Item, Params())
