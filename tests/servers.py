"""Real servers on loopback, in the event loop of the test, which can look into the pool meanwhile."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import uvicorn
from granian.constants import Interfaces
from granian.server.embed import Server as Granian

from postgres import free_port
from scoped_async.asgi import Application, Message, Receive, Send


@asynccontextmanager
async def by_uvicorn(app: Application) -> AsyncIterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, log_config=None, access_log=False, timeout_keep_alive=60, timeout_graceful_shutdown=10
        )
        # What `serve()` does, without the signals, which are pytest's, and the clock that looks for them.
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup([listener])
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            await server.shutdown([listener])


@asynccontextmanager
async def by_granian(app: Application) -> AsyncIterator[str]:
    port = free_port()
    server = Granian(app, port=port, interface=Interfaces.ASGI, log_enabled=False)
    serving = asyncio.create_task(server.serve())
    try:
        await until_it_listens(port, serving)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop()  # type: ignore[no-untyped-call]
        await serving


async def until_it_listens(port: int, serving: asyncio.Task[Any]) -> None:
    async with asyncio.timeout(30):
        while not serving.done():
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
    raise RuntimeError("the server ended") from serving.exception()


SERVERS = {"uvicorn": by_uvicorn, "granian": by_granian}


class CancelOnDisconnect:
    """Cancels the application when the client is gone: a server only says so."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, asgi: Any, receive: Receive, send: Send) -> None:
        if asgi["type"] == "lifespan":
            await self.app(asgi, receive, send)
            return
        messages = asyncio.Queue[Message]()
        async with anyio.create_task_group() as group:

            async def listen() -> None:
                while (message := await receive())["type"] != "http.disconnect":
                    messages.put_nowait(message)
                group.cancel_scope.cancel()

            group.start_soon(listen)
            await self.app(asgi, messages.get, send)
            group.cancel_scope.cancel()


@asynccontextmanager
async def client_of(app: Application, server: str = "uvicorn") -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of ``app``, served by ``server``."""
    async with SERVERS[server](app) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
        yield client
