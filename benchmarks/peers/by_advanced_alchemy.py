"""advanced-alchemy: its configuration makes the sessions; there is no unit of work without one."""

from typing import Any

from advanced_alchemy.extensions.starlette import AdvancedAlchemy, AsyncSessionConfig, SQLAlchemyAsyncConfig
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from ..database import SELECT, Entry, engine

config = SQLAlchemyAsyncConfig(
    engine_instance=engine, session_config=AsyncSessionConfig(expire_on_commit=False)
)


async def unused() -> None:
    async with config.get_session():
        pass


async def touched() -> None:
    async with config.get_session():
        pass


async def select() -> None:
    async with config.get_session() as session:
        await session.scalar(SELECT)


async def insert() -> None:
    async with config.get_session() as session:
        session.add(Entry(amount=1))
        await session.commit()


async def handler(request: Request) -> PlainTextResponse:
    session = alchemy.get_async_session(request)
    return PlainTextResponse(str(await session.scalar(SELECT)))


application: Any = Starlette(routes=[Route("/", handler)])
alchemy = AdvancedAlchemy(config=config, app=application)
