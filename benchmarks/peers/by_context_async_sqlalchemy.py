"""context-async-sqlalchemy: a container of sessions in a ContextVar, made on the first ``db_session()``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from context_async_sqlalchemy import (
    ASGIHTTPDBSessionMiddleware,
    DBConnect,
    commit_all_sessions,
    db_session,
    init_db_session_ctx,
    reset_db_session_ctx,
    rollback_all_sessions,
)
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from .. import database

connection = DBConnect(
    engine_creator=lambda host: database.engine,
    session_maker_creator=lambda engine: database.sessions,
    host="127.0.0.1",
)


@asynccontextmanager
async def unit_of_work() -> AsyncIterator[None]:
    """What its middleware and its ``run_in_new_ctx()`` do around a handler and around a task."""
    token = init_db_session_ctx(force=True)
    try:
        yield
        await commit_all_sessions()
    except Exception:
        await rollback_all_sessions()
        raise
    finally:
        await reset_db_session_ctx(token)


async def unused() -> None:
    async with unit_of_work():
        pass


async def touched() -> None:
    async with unit_of_work():
        await db_session(connection)


async def select() -> None:
    async with unit_of_work():
        session = await db_session(connection)
        await session.scalar(database.SELECT)


async def insert() -> None:
    async with unit_of_work():
        session = await db_session(connection)
        session.add(database.Entry(amount=1))


async def handler(request: Request) -> PlainTextResponse:
    session = await db_session(connection)
    return PlainTextResponse(str(await session.scalar(database.SELECT)))


application: Any = Starlette(
    routes=[Route("/", handler)], middleware=[Middleware(ASGIHTTPDBSessionMiddleware)]
)
