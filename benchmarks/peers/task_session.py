"""SQLAlchemy's async_scoped_session: a session per task, which lasts until ``remove()``."""

from asyncio import current_task
from typing import Any

from sqlalchemy.ext.asyncio import async_scoped_session
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ..database import SELECT, Entry, sessions

Session = async_scoped_session(sessions, scopefunc=current_task)


async def unused() -> None:
    # Nothing tells whether the session was touched: what ends a unit of work removes it in any case.
    await Session.remove()


async def touched() -> None:
    try:
        Session()
    finally:
        await Session.remove()


async def select() -> None:
    try:
        await Session.scalar(SELECT)
    finally:
        await Session.remove()


async def insert() -> None:
    try:
        Session.add(Entry(amount=1))
        await Session.commit()
    finally:
        await Session.remove()


async def handler(request: Request) -> PlainTextResponse:
    try:
        return PlainTextResponse(str(await Session.scalar(SELECT)))
    finally:
        await Session.remove()


application: Any = Starlette(routes=[Route("/", handler)])
