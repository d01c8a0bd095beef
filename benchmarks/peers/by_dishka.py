"""dishka: a container per request, which makes the session when it is asked for."""

from collections.abc import AsyncIterable
from typing import Any

from dishka import FromDishka, Provider, Scope, make_async_container, provide
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette_dishka import inject, setup_dishka

from ..database import SELECT, Entry, sessions


class Sessions(Provider):
    @provide(scope=Scope.REQUEST)
    async def session(self) -> AsyncIterable[AsyncSession]:
        async with sessions() as session:
            yield session


container = make_async_container(Sessions())


async def unused() -> None:
    async with container():
        pass


async def touched() -> None:
    async with container() as request:
        await request.get(AsyncSession)


async def select() -> None:
    async with container() as request:
        session = await request.get(AsyncSession)
        await session.scalar(SELECT)


async def insert() -> None:
    async with container() as request:
        session = await request.get(AsyncSession)
        session.add(Entry(amount=1))
        await session.commit()


@inject
async def handler(request: Request, session: FromDishka[AsyncSession]) -> PlainTextResponse:
    return PlainTextResponse(str(await session.scalar(SELECT)))


application: Any = Starlette(routes=[Route("/", handler)])
setup_dishka(container, application)
