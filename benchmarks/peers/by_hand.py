"""A ContextVar and ``async with sessionmaker()``, as most services write it themselves.

There is no unit of work without a session: it is made at the start, whether it is needed or not.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ..database import SELECT, Entry, sessions

_current: ContextVar[AsyncSession] = ContextVar("session")


@asynccontextmanager
async def unit_of_work(*, commit: bool = False) -> AsyncIterator[None]:
    async with sessions() as session:
        token = _current.set(session)
        try:
            yield
            if commit:
                await session.commit()
        finally:
            _current.reset(token)


async def unused() -> None:
    async with unit_of_work():
        pass


async def touched() -> None:
    async with unit_of_work():
        _current.get()


async def select() -> None:
    async with unit_of_work():
        await _current.get().scalar(SELECT)


async def insert() -> None:
    async with unit_of_work(commit=True):
        _current.get().add(Entry(amount=1))


async def handler(request: Request) -> PlainTextResponse:
    async with sessions() as session:
        return PlainTextResponse(str(await session.scalar(SELECT)))


application: Any = Starlette(routes=[Route("/", handler)])
