"""A body that streams: in the scope of its request, in a new transaction."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from protocol_database import Database
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from aiohttp_site import Site, hung_up
from entries import break_the_commit, write

streaming = pytest.mark.parametrize("way", ["prepared", "streamed"])


async def stream(request: web.Request, way: str, pieces: AsyncIterator[bytes], status: int = 200) -> Any:
    """By the handler, once it has sent the head; or by aiohttp, when the handler has returned."""
    if way == "streamed":
        return web.Response(status=status, body=pieces)
    response = web.StreamResponse(status=status)
    await response.prepare(request)
    async for piece in pieces:
        await response.write(piece)
    return response


@streaming
class TestAfterTheHead:
    """A body that streams: the same scope, a new transaction."""

    async def test_chunk_by_chunk(self, database: Database, way: str) -> None:
        first_has_arrived = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"first"
            await first_has_arrived.wait()
            yield b"second"

        async def handler(request: web.Request) -> Any:
            await write(database.Session, "a")
            return await stream(request, way, pieces())

        arrived = []
        async with Site(handler).serve() as client, client.get("/") as response:
            async for piece in response.content.iter_any():
                arrived.append(piece)
                assert await database.stored() == {"a"}
                first_has_arrived.set()
        assert arrived == [b"first", b"second"]

    async def test_it_commits_at_the_end(self, database: Database, way: str) -> None:
        """No connection is held between the head and the first use."""
        out: list[int] = []

        async def pieces() -> AsyncIterator[bytes]:
            out.append(database.out)
            await write(database.Session, "b")
            yield b"piece"
            out.append(database.out)

        async def handler(request: web.Request) -> Any:
            await write(database.Session, "a")
            return await stream(request, way, pieces())

        assert await Site(handler).get() == (200, "piece")
        assert out == [0, 1]
        assert await database.stored() == {"a", "b"}

    async def test_a_stream_of_rows_that_was_opened_before(self, database: Database, way: str) -> None:
        """It goes on when nothing was written in its transaction: there is nothing to commit yet."""

        async def pieces(rows: Any) -> AsyncIterator[bytes]:
            async for row in rows:
                yield b"%d " % row

        async def handler(request: web.Request) -> Any:
            numbers = text("SELECT generate_series(1, 2000)")
            return await stream(request, way, pieces(await database.Session.stream_scalars(numbers)))

        status, body = await Site(handler).get()
        assert (status, len(body.split())) == (200, 2000)

    async def test_after_a_rollback(self, database: Database, way: str) -> None:
        async def pieces() -> AsyncIterator[bytes]:
            await write(database.Session, "b")
            yield b"piece"

        async def handler(request: web.Request) -> Any:
            await write(database.Session, "a")
            return await stream(request, way, pieces(), 422)

        assert await Site(handler).get() == (422, "piece")
        assert await database.stored() == set()

    async def test_an_exception_in_mid_stream(self, database: Database, way: str) -> None:
        """What came after the commit is rolled back, and the client sees that the body is not whole."""

        async def pieces() -> AsyncIterator[bytes]:
            await write(database.Session, "b")
            yield b"piece"
            raise ValueError("a mistake of the stream")

        async def handler(request: web.Request) -> Any:
            await write(database.Session, "a")
            return await stream(request, way, pieces())

        site = Site(handler)
        with pytest.raises(aiohttp.ClientPayloadError):
            await site.get()
        assert [str(error) for error in site.raised] == ["a mistake of the stream"]
        assert await database.stored() == {"a"}

    async def test_a_commit_at_the_end_that_fails(self, database: Database, way: str) -> None:
        """A body that the handler writes does not end then as if it were whole."""

        async def pieces() -> AsyncIterator[bytes]:
            await break_the_commit(database.Session)
            yield b"piece"

        async def handler(request: web.Request) -> Any:
            await write(database.Session, "a")
            return await stream(request, way, pieces())

        site = Site(handler)
        if way == "prepared":
            with pytest.raises(aiohttp.ClientPayloadError):
                await site.get()
        else:
            assert await site.get() == (200, "piece")
        assert [type(error) for error in site.raised] == [IntegrityError]
        assert await database.stored() == {"a"}


@pytest.mark.parametrize("whole", [True, False])
async def test_a_client_that_closes_after_the_body(database: Database, whole: bool) -> None:
    """Once it has all of it, that is its right, and what comes then is committed."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if whole:
            await response.write_eof(b"done")
        else:
            await response.write(b"done")
        await write(database.Session, "a")
        await hung_up(request)
        return response

    site = Site(handler, handler_cancellation=False)
    async with site.serve() as client:
        async with client.get("/", headers={"Connection": "close"}) as response:
            assert await response.content.readexactly(4) == b"done"
        await site.left.wait()
    assert await database.stored() == ({"a"} if whole else set())


async def test_an_answer_raised_after_the_head(database: Database) -> None:
    """It is an exception like any other then: what came after the head is rolled back."""

    async def handler(request: web.Request) -> web.StreamResponse:
        await write(database.Session, "a")
        await web.StreamResponse().prepare(request)
        await write(database.Session, "b")
        raise web.HTTPOk

    site = Site(handler)
    async with site.serve() as client, client.get("/") as response:
        await site.left.wait()
        assert response.status == 200
    assert [type(error) for error in site.raised] == [web.HTTPOk]
    assert await database.stored() == {"a"}
