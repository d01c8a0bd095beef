"""The libraries that come with the extra ``bench``, and SQLAlchemy's own."""

# mypy: disable-error-code="import-not-found,import-untyped,no-any-return,untyped-decorator"

from asyncio import current_task
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Annotated, Any

from advanced_alchemy.extensions.fastapi import AdvancedAlchemy, AsyncSessionConfig, SQLAlchemyAsyncConfig
from context_async_sqlalchemy import (
    ASGIHTTPDBSessionMiddleware,
    DBConnect,
    commit_all_sessions,
    db_session,
    init_db_session_ctx,
    reset_db_session_ctx,
    rollback_all_sessions,
)
from fastapi import Depends, FastAPI, Response
from fastapi_async_sqlalchemy import create_middleware_and_session_proxy
from libraries import ByHand, Depended, GetSession, Handler, Library, Ours, given
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker


class TaskSession(Library):
    """SQLAlchemy's ``async_scoped_session`` by task, committed and removed where the endpoint ends."""

    title = "`async_scoped_session`"
    package = "sqlalchemy"

    def __init__(self, engine: AsyncEngine) -> None:
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        self.Session = async_scoped_session(sessions, scopefunc=current_task)

    async def session(self) -> AsyncSession:
        return self.Session()

    @asynccontextmanager
    async def unit(self) -> AsyncGenerator[GetSession]:
        try:
            yield self.session
            await self.Session.commit()
        finally:
            await self.Session.remove()

    def app(self, handler: Handler) -> FastAPI:
        app = FastAPI()

        @app.get("/")
        async def endpoint() -> Response:
            async with self.unit():
                return await handler(self.session)

        return app


class FastapiAsyncSqlalchemy(Library):
    """``db.session``, by its middleware with ``commit_on_exit=True``."""

    # From 0.8 on, which needs Python 3.12, it is another program.
    title = "fastapi-async-sqlalchemy " + ".".join(version("fastapi-async-sqlalchemy").split(".")[:2])
    package = "fastapi-async-sqlalchemy"

    def __init__(self, engine: AsyncEngine) -> None:
        self.options = {"custom_engine": engine, "commit_on_exit": True}
        proxy: Any = create_middleware_and_session_proxy()
        self.middleware, self.db = proxy
        self.middleware(FastAPI(), **self.options)  # which binds ``db`` to the engine

    async def session(self) -> AsyncSession:
        return self.db.session

    @asynccontextmanager
    async def unit(self) -> AsyncGenerator[GetSession]:
        async with self.db(commit_on_exit=True):
            yield self.session

    def app(self, handler: Handler) -> FastAPI:
        app = FastAPI()
        app.add_middleware(self.middleware, **self.options)

        @app.get("/")
        async def endpoint() -> Response:
            return await handler(self.session)

        return app


class ContextAsyncSqlalchemy(Library):
    """``await db_session(connection)``, by its ASGI middleware."""

    title = "context-async-sqlalchemy"
    package = "context-async-sqlalchemy"

    def __init__(self, engine: AsyncEngine) -> None:
        sessions = async_sessionmaker(engine, expire_on_commit=False)
        self.connection = DBConnect(lambda host: engine, lambda engine: sessions, host="127.0.0.1")

    async def session(self) -> AsyncSession:
        return await db_session(self.connection)

    @asynccontextmanager
    async def unit(self) -> AsyncGenerator[GetSession]:
        """What its ``run_in_new_ctx()`` does around a function."""
        token = init_db_session_ctx(force=True)
        try:
            yield self.session
            await commit_all_sessions()
        except Exception:
            await rollback_all_sessions()
            raise
        finally:
            await reset_db_session_ctx(token)

    def app(self, handler: Handler) -> FastAPI:
        app = FastAPI()
        app.add_middleware(ASGIHTTPDBSessionMiddleware)

        @app.get("/")
        async def endpoint() -> Response:
            return await handler(self.session)

        return app


class AdvancedAlchemyExtension(Library):
    """``Depends(alchemy.provide_session())``, with ``commit_mode="autocommit"``."""

    title = "advanced-alchemy"
    package = "advanced-alchemy"

    def __init__(self, engine: AsyncEngine) -> None:
        self.config = SQLAlchemyAsyncConfig(
            engine_instance=engine,
            commit_mode="autocommit",
            session_config=AsyncSessionConfig(expire_on_commit=False),
        )

    @asynccontextmanager
    async def unit(self) -> AsyncGenerator[GetSession]:
        async with self.config.get_session() as session:
            yield given(session)
            await session.commit()

    def app(self, handler: Handler) -> FastAPI:
        app = FastAPI()
        alchemy = AdvancedAlchemy(config=self.config, app=app)

        @app.get("/")
        async def endpoint(session: Annotated[AsyncSession, Depends(alchemy.provide_session())]) -> Response:
            return await handler(given(session))

        return app


LIBRARIES: list[type[Library]] = [
    Ours,
    ByHand,
    TaskSession,
    FastapiAsyncSqlalchemy,
    ContextAsyncSqlalchemy,
    AdvancedAlchemyExtension,
    Depended,
]
"""In the order of the table's columns."""
