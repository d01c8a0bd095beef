"""WebSockets of aiohttp: a scope per message, or one for the connection."""

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from protocol_database import Database

from aiohttp_site import Site
from entries import write
from scoped_async import (
    NoScopeError,
    current_scope,
    scope,
)
from scoped_async.aiohttp import scope_middleware


class TestWebSocket:
    """No scope, because a socket lives long: each message opens its own. When asked for: one for it all."""

    async def talk(self, handler: Any, *messages: str, **options: Any) -> list[str]:
        """Not cancelled by aiohttp, as one is whose client does not wait for the end of its handshake."""
        site = Site(handler, [scope_middleware(**options)], handler_cancellation=False)
        async with site.serve() as client:
            async with client.ws_connect("/") as socket:
                answers = []
                for message in messages:
                    await socket.send_str(message)
                    answers.append(await socket.receive_str())
            await site.left.wait()
        assert site.raised == []
        return answers

    async def test_none_by_default(self, database: Database) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                with pytest.raises(NoScopeError):
                    database.Session()
                async with scope(commit=True):
                    await write(database.Session, message.data)
                await socket.send_str("stored")
            return socket

        assert await self.talk(handler, "a", commit=True) == ["stored"]
        assert await database.stored() == {"a"}

    @pytest.mark.parametrize(
        ("commit", "kept"),
        [(True, {"a", "b"}), (lambda status: status == 101, {"a", "b"}), (False, set[str]())],
    )
    async def test_one_for_the_connection(self, database: Database, commit: Any, kept: set[str]) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await write(database.Session, message.data)
                await socket.send_str(current_scope().name)
            return socket

        answers = await self.talk(handler, "a", "b", commit=commit, websocket=True)
        assert answers == ["GET /"] * 2
        assert await database.stored() == kept

    @pytest.mark.parametrize("cancelled", [True, False])
    async def test_a_client_that_goes_away(self, database: Database, cancelled: bool) -> None:
        """Without a closing handshake: rolled back, whether aiohttp cancels the handler or not."""
        received = asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            socket = web.WebSocketResponse()
            await socket.prepare(request)
            async for message in socket:
                await write(database.Session, message.data)
                received.set()
            return socket

        site = Site(handler, [scope_middleware(commit=True, websocket=True)], cancelled)
        async with site.serve() as client:

            async def lose_the_connection() -> None:
                socket = await client.ws_connect("/")
                await socket.send_str("a")
                await received.wait()
                socket._response.close()

            await lose_the_connection()
            await site.left.wait()
        assert (database.out, await database.stored()) == (0, set())

    @pytest.mark.parametrize("header", [{}, {"Connection": "upgrade"}])
    async def test_a_request_that_only_looks_like_one(
        self, database: Database, header: dict[str, str]
    ) -> None:
        """Some proxies ask for an upgrade each time; what aiohttp would not make a WebSocket has a scope."""

        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            return web.Response(text="done")

        headers = {"Upgrade": "WebSocket"} | header
        assert await Site(handler).get(headers=headers) == (200, "done")
        assert await database.stored() == {"a"}

    async def test_a_commit_that_fails_refuses_the_socket(self, database: Database) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            await database.kill()
            await web.WebSocketResponse().prepare(request)
            raise AssertionError("never reached")

        site = Site(handler, [scope_middleware(commit=True, websocket=True)])
        async with site.serve() as client:
            with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
                await client.ws_connect("/")
        assert refusal.value.status == 500
        assert await database.stored() == set()
