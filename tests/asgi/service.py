"""A service under test: a handler behind the middleware, and what goes from framework to server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from frameworks import FRAMEWORKS, Handler, Middlewares, scoped
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import QueuePool

from entries import Sessions, stored
from scoped_async.asgi import Application, Message, Receive, Send
from servers import client_of


@dataclass
class Service:
    """What tests of one service need: its sessions, and what was on its way to the server."""

    engine: AsyncEngine
    Session: Sessions
    observer: AsyncEngine
    """Sees what is committed by connections of its own."""
    messages: list[str] = field(default_factory=list)
    """The kinds of the messages that went to the server, a start with its status."""
    stored_at_start: set[str] | None = None
    """What was committed when the start of the response went to the server."""
    out_at_start: int | None = None
    """How many connections were out of the pool then."""
    raised: list[BaseException] = field(default_factory=list)
    """What came out to the server."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the application has returned or raised."""

    @property
    def out(self) -> int:
        """How many connections are out of the pool."""
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)
        return pool.checkedout()

    async def stored(self) -> set[str]:
        """What is committed."""
        return await stored(self.observer)

    async def session(self) -> AsyncSession:
        """The documented bridge for code that takes a session as an argument."""
        return self.Session()

    def watched(self, app: Application) -> Application:
        """``app``, with what it sends looked at on its way to the server."""

        async def watch(asgi: Any, receive: Receive, send: Send) -> None:
            async def look(message: Message) -> None:
                kind = message["type"].removeprefix("http.response.")
                if kind == "start":
                    self.stored_at_start, self.out_at_start = await self.stored(), self.out
                    kind += f" {message['status']}"
                self.messages.append(kind)
                await send(message)

            if asgi["type"] == "lifespan":
                await app(asgi, receive, send)
                return
            self.left.clear()
            try:
                await app(asgi, receive, look)
            except BaseException as error:
                self.raised.append(error)
                raise
            finally:
                self.left.set()

        return watch

    @asynccontextmanager
    async def serve(
        self,
        framework: str,
        handler: Handler,
        middlewares: Middlewares | None = None,
        server: str = "uvicorn",
    ) -> AsyncIterator[httpx.AsyncClient]:
        """An HTTP client of ``handler``, by default behind ``ScopeMiddleware(commit=True)``."""
        app = FRAMEWORKS[framework](handler, scoped(commit=True) if middlewares is None else middlewares)
        async with client_of(self.watched(app), server) as client:
            yield client

    async def get(
        self,
        framework: str,
        handler: Handler,
        middlewares: Middlewares | None = None,
        server: str = "uvicorn",
    ) -> httpx.Response:
        """One request; returns when the application has been left, too."""
        async with self.serve(framework, handler, middlewares, server) as client:
            response = await client.get("/")
            await self.left.wait()
        return response


async def hang_up(client: httpx.AsyncClient, when: Callable[[], Awaitable[Any]]) -> None:
    """Ask, and close the connection once ``when()`` has returned, wherever the answer is by then."""
    request = asyncio.create_task(client.get("/"))
    await when()
    request.cancel()
    await asyncio.wait([request])
