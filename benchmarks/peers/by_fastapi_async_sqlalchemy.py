"""fastapi-async-sqlalchemy: ``async with db():`` makes a session at once, ``db.session`` is it."""

from typing import Any

from fastapi_async_sqlalchemy import SQLAlchemyMiddleware, db
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ..database import SELECT, Entry, engine


async def unused() -> None:
    async with db():
        pass


async def touched() -> None:
    async with db():
        db.session  # noqa: B018


async def select() -> None:
    async with db():
        await db.session.scalar(SELECT)


async def insert() -> None:
    async with db(commit_on_exit=True):
        db.session.add(Entry(amount=1))


async def handler(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(await db.session.scalar(SELECT)))


# The middleware is also what binds ``db`` to the engine, so it is made at once.
application: Any = Starlette(
    routes=[Route("/", handler)], middleware=[Middleware(SQLAlchemyMiddleware, custom_engine=engine)]
)
application.middleware_stack = application.build_middleware_stack()
