"""A site of aiohttp on loopback, and the ways in which a handler may answer there."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from scoped_async.aiohttp import scope_middleware
from watch import until


@dataclass
class Site:
    """One handler behind the middleware, at ``/`` for every method."""

    handler: Handler
    middlewares: list[Middleware] = field(default_factory=lambda: [scope_middleware(commit=True)])
    handler_cancellation: bool = True
    """Whether aiohttp cancels a handler whose client has gone; its own default is not to."""
    raised: list[BaseException] = field(default_factory=list)
    """What came out of the middlewares."""
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the middlewares have returned or raised."""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[aiohttp.ClientSession]:
        """A client of the site."""

        @web.middleware
        async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.left.clear()
            try:
                return await handler(request)
            except BaseException as error:
                self.raised.append(error)
                raise
            finally:
                self.left.set()

        app = web.Application(middlewares=[watch, *self.middlewares])
        app.router.add_route("*", "/", self.handler)
        async with client_of(app, handler_cancellation=self.handler_cancellation) as client:
            yield client

    async def get(self, **options: Any) -> tuple[int, str]:
        """One request; returns status and text when the middlewares have been left, too."""
        async with self.serve() as client:
            async with client.get("/", allow_redirects=False, **options) as response:
                answer = response.status, await response.text()
            await self.left.wait()
        return answer


@asynccontextmanager
async def client_of(app: web.Application, **options: Any) -> AsyncIterator[aiohttp.ClientSession]:
    """A client of ``app``, served on loopback."""
    runner = web.AppRunner(app, access_log=None, **options)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await web.SockSite(runner, listener).start()
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
                yield client
        finally:
            await runner.cleanup()


async def hang_up(client: aiohttp.ClientSession, when: Callable[[], Awaitable[Any]]) -> None:
    """Ask, and close the connection once ``when()`` has returned, wherever the answer is by then."""

    async def ask() -> None:
        async with client.get("/") as response:
            await response.text()

    request = asyncio.create_task(ask())
    await when()
    request.cancel()
    await asyncio.wait([request])


async def hung_up(request: web.Request) -> None:
    """Return when the server has noticed that the client is gone, unless it cancels the handler first."""

    async def gone() -> bool:
        return request.transport is None

    await until(gone)


async def returned(request: web.Request, status: int) -> web.StreamResponse:
    return web.Response(status=status, text="done")


async def raised(request: web.Request, status: int) -> web.StreamResponse:
    """As an exception, which aiohttp does for 200, too."""
    kinds = [kind for kind in vars(web).values() if getattr(kind, "status_code", None) == status]
    raise kinds[0](text="done")


async def prepared(request: web.Request, status: int) -> web.StreamResponse:
    """Head and body by hand, the end of the body left to aiohttp."""
    response = web.StreamResponse(status=status)
    await response.prepare(request)
    await response.write(b"done")
    return response


async def prepared_to_the_end(request: web.Request, status: int) -> web.StreamResponse:
    response = web.StreamResponse(status=status, headers={"Content-Length": "4"})
    await response.prepare(request)
    await response.write_eof(b"done")
    return response


async def compressed(request: web.Request, status: int) -> web.StreamResponse:
    """What sets up the connection's writer most before the head is sent."""
    response = web.StreamResponse(status=status)
    response.enable_compression(web.ContentCoding.deflate)
    await response.prepare(request)
    await response.write(b"done")
    return response


async def streamed(request: web.Request, status: int) -> web.StreamResponse:
    """A body that aiohttp iterates over when the handler has returned."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"done"

    return web.Response(status=status, body=pieces())


async def file(request: web.Request, status: int) -> web.StreamResponse:
    return web.FileResponse(FILE, status=status)


FILE = Path(__file__).with_name("protocols") / "done.txt"
WAYS: dict[str, Callable[[web.Request, int], Awaitable[web.StreamResponse]]] = {
    way.__name__: way for way in (returned, raised, prepared, prepared_to_the_end, compressed, streamed, file)
}
