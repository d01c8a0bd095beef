"""scoped_async: the scope is current, and the session is made when it is touched."""

from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from scoped_async import AsyncScopedSession, scope
from scoped_async.asgi import ScopeMiddleware

from ..database import SELECT, Entry, sessions

Session = AsyncScopedSession(sessions)


async def unused() -> None:
    async with scope():
        pass


async def touched() -> None:
    async with scope():
        Session()


async def select() -> None:
    async with scope():
        await Session.scalar(SELECT)


async def insert() -> None:
    async with scope(commit=True):
        Session.add(Entry(amount=1))


async def handler(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(await Session.scalar(SELECT)))


application: Any = Starlette(routes=[Route("/", handler)], middleware=[Middleware(ScopeMiddleware)])
