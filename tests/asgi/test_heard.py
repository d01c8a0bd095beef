"""The client hears of success, or the work is rolled back: who hangs up, and who is not let in."""

import asyncio
from typing import Any

import pytest
from service import Service
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from entries import write
from scoped_async.asgi import Message, Receive, ScopeMiddleware, Send
from servers import SERVERS, client_of

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body", "body": b"done"}


class TestTheClientHasHungUp:
    async def test_before_the_answer_and_the_application_knows(self, service: Service) -> None:
        """What it answers then reaches nobody, and is no success."""

        async def app(asgi: Any, receive: Receive, send: Send) -> None:
            if asgi["type"] == "lifespan":
                return
            await write(service.Session, "a")
            while (await receive())["type"] != "http.disconnect":
                pass
            await send(START)
            await send(BODY)
            await write(service.Session, "b")

        async with SERVERS["uvicorn"](service.watched(ScopeMiddleware(app, commit=True))) as url:
            host, port = url.removeprefix("http://").split(":")
            await hang_up_at_once(host, int(port))
            await service.left.wait()
        assert (service.raised, service.out_at_start, await service.stored()) == ([], 0, set())

    async def test_on_the_last_piece(self, service: Service) -> None:
        """The response is whole when the server has taken the last piece of it, and not before."""

        async def app(asgi: Any, receive: Receive, send: Send) -> None:
            await write(service.Session, "a")
            await send(START)
            with pytest.raises(OSError, match="gone"):
                await send(BODY)
            await write(service.Session, "b")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                raise OSError("the client is gone")

        async def receive() -> Message:
            raise AssertionError("never called")

        asgi = {"type": "http", "method": "GET", "path": "/"}
        await ScopeMiddleware(app, commit=True)(asgi, receive, send)
        assert await service.stored() == {"a"}

    async def test_after_the_last_piece(self, service: Service) -> None:
        """Told meanwhile or afterwards: the client has the whole answer, so what comes after it counts."""

        async def app(asgi: Any, receive: Receive, send: Send) -> None:
            if asgi["type"] == "lifespan":
                return
            await send(START)
            await send(BODY)
            while (await receive())["type"] != "http.disconnect":
                pass
            await write(service.Session, "b")

        async with client_of(service.watched(ScopeMiddleware(app, commit=True))) as client:
            assert (await client.get("/")).text == "done"
            await service.left.wait()
        assert await service.stored() == {"b"}


class TestWebSocket:
    @pytest.mark.parametrize(("accepts", "kept"), [(True, {"a"}), (False, set[str]())])
    async def test_committed_if_it_was_accepted(
        self, service: Service, accepts: bool, kept: set[str]
    ) -> None:
        """One that is closed before is answered with 403."""

        async def endpoint(socket: WebSocket) -> None:
            await write(service.Session, "a")
            if accepts:
                await socket.accept()
            await socket.close()

        app = Starlette(routes=[WebSocketRoute("/talk", endpoint)])
        app.add_middleware(ScopeMiddleware, commit=True, websocket=True)
        statuses = [101]
        async with SERVERS["uvicorn"](service.watched(app)) as url:
            try:
                async with connect(url.replace("http", "ws") + "/talk"):
                    pass
            except InvalidStatus as refused:
                statuses.append(refused.response.status_code)
            await service.left.wait()
        assert statuses == ([101] if accepts else [101, 403])
        assert await service.stored() == kept


async def hang_up_at_once(host: str, port: int) -> None:
    """Ask, and close the connection without waiting for an answer."""
    _, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
