"""Each library as its own documentation says to use it: one unit of work that commits, and one per request.

``async with library.unit() as session`` is the first; ``library.app(handler)`` is the second, a FastAPI
application. ``session`` is an async function: the session as the library gives it, here and now.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from contextvars import ContextVar
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from scoped_async import AsyncScopedSession, scope
from scoped_async.asgi import ScopeMiddleware

GetSession = Callable[[], Awaitable[AsyncSession]]
Handler = Callable[[GetSession], Awaitable[Response]]


class Library(ABC):
    """What a user could pick."""

    title: str
    """The head of its column in docs/comparison.md."""
    package: str | None = None
    """What is asked for its version."""

    @abstractmethod
    def __init__(self, engine: AsyncEngine) -> None: ...

    @abstractmethod
    def unit(self) -> AbstractAsyncContextManager[GetSession]:
        """A unit of work that commits when it ends well."""

    @abstractmethod
    def app(self, handler: Handler) -> FastAPI:
        """An application with one route, ``GET /``, whose requests are such units."""


class Ours(Library):
    """The scope is current, and the session is made when it is touched."""

    title = "scoped_async"
    package = "scoped-async"

    def __init__(self, engine: AsyncEngine) -> None:
        self.Session = AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))

    async def session(self) -> AsyncSession:
        return self.Session  # the proxy, as users write it

    @asynccontextmanager
    async def unit(self) -> AsyncGenerator[GetSession]:
        async with scope(commit=True):
            yield self.session

    def app(self, handler: Handler) -> FastAPI:
        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=True)

        @app.get("/")
        async def endpoint() -> Response:
            return await handler(self.session)

        return app


class ByHand(Library):
    """A ContextVar and ``async with sessionmaker()``; the middleware as FastAPI's own page on it shows it."""

    title = "ContextVar by hand"

    def __init__(self, engine: AsyncEngine) -> None:
        self.sessions = async_sessionmaker(engine, expire_on_commit=False)
        self.current: ContextVar[AsyncSession] = ContextVar("session")

    async def session(self) -> AsyncSession:
        return self.current.get()

    @asynccontextmanager
    async def unit(self) -> AsyncGenerator[GetSession]:
        async with self.sessions() as session:
            token = self.current.set(session)
            try:
                yield self.session
                await session.commit()
            finally:
                self.current.reset(token)

    def app(self, handler: Handler) -> FastAPI:
        app = FastAPI()

        @app.middleware("http")
        async def unit_of_work(
            request: Request, call_next: Callable[[Request], Awaitable[Response]]
        ) -> Response:
            async with self.unit():
                return await call_next(request)

        @app.get("/")
        async def endpoint() -> Response:
            return await handler(self.session)

        return app


class Depended(Library):
    """FastAPI's ``Depends`` on a generator that commits after its ``yield``."""

    title = "FastAPI `Depends`"
    package = "fastapi"

    def __init__(self, engine: AsyncEngine) -> None:
        self.sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def get_session(self) -> AsyncGenerator[AsyncSession]:
        async with self.sessions() as session:
            yield session
            await session.commit()

    @asynccontextmanager
    async def unit(self) -> AsyncGenerator[GetSession]:
        async with asynccontextmanager(self.get_session)() as session:
            yield given(session)

    def app(self, handler: Handler) -> FastAPI:
        app = FastAPI()

        @app.get("/")
        async def endpoint(session: Annotated[AsyncSession, Depends(self.get_session)]) -> Response:
            return await handler(given(session))

        return app


def given(session: AsyncSession) -> GetSession:
    """Where a session is handed on as an argument, everybody has that one."""

    async def get() -> AsyncSession:
        return session

    return get
