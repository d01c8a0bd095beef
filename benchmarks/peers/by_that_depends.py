"""that-depends: a context for a named scope, in which the session is made when it is resolved."""

from collections.abc import AsyncIterator
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from that_depends import BaseContainer, ContextScopes, container_context, providers
from that_depends.providers import DIContextMiddleware

from ..database import SELECT, Entry, sessions


async def create_session() -> AsyncIterator[AsyncSession]:
    async with sessions() as session:
        yield session


class Container(BaseContainer):
    default_scope = ContextScopes.REQUEST
    session = providers.ContextResource(create_session)


async def unused() -> None:
    async with container_context(scope=ContextScopes.REQUEST):
        pass


async def touched() -> None:
    async with container_context(scope=ContextScopes.REQUEST):
        await Container.session.resolve()


async def select() -> None:
    async with container_context(scope=ContextScopes.REQUEST):
        session = await Container.session.resolve()
        await session.scalar(SELECT)


async def insert() -> None:
    async with container_context(scope=ContextScopes.REQUEST):
        session = await Container.session.resolve()
        session.add(Entry(amount=1))
        await session.commit()


async def handler(request: Request) -> PlainTextResponse:
    session = await Container.session.resolve()
    return PlainTextResponse(str(await session.scalar(SELECT)))


application: Any = Starlette(
    routes=[Route("/", handler)], middleware=[Middleware(DIContextMiddleware, scope=ContextScopes.REQUEST)]
)
