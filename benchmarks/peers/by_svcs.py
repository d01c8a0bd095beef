"""svcs: a container that makes the session when it is asked for, and closes it at the container's end."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import svcs
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from svcs.starlette import SVCSMiddleware, svcs_from

from ..database import SELECT, Entry, sessions


async def create_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


registry = svcs.Registry()
registry.register_factory(AsyncSession, create_session)


async def unused() -> None:
    async with svcs.Container(registry):
        pass


async def touched() -> None:
    async with svcs.Container(registry) as container:
        await container.aget(AsyncSession)


async def select() -> None:
    async with svcs.Container(registry) as container:
        session = await container.aget(AsyncSession)
        await session.scalar(SELECT)


async def insert() -> None:
    async with svcs.Container(registry) as container:
        session = await container.aget(AsyncSession)
        session.add(Entry(amount=1))
        await session.commit()


async def handler(request: Request) -> PlainTextResponse:
    session = await svcs_from(request).aget(AsyncSession)
    return PlainTextResponse(str(await session.scalar(SELECT)))


@svcs.starlette.lifespan
async def lifespan(app: Starlette, registry: svcs.Registry) -> AsyncGenerator[dict[str, object], None]:
    registry.register_factory(AsyncSession, create_session)
    yield {}


application: Any = Starlette(
    routes=[Route("/", handler)], middleware=[Middleware(SVCSMiddleware)], lifespan=lifespan
)
