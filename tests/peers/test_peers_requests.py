"""What a request's work comes to, and what its client is told of it."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from cells import THEIR_WARNINGS, Bench, fate
from fastapi import Response
from fastapi.responses import StreamingResponse
from libraries import GetSession
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from starlette.background import BackgroundTask

from entries import break_the_commit, write

pytestmark = THEIR_WARNINGS


async def test_commit_fails(bench: Bench) -> None:
    """A deferred constraint is broken: only the COMMIT says so."""

    async def handler(session: GetSession) -> Response:
        await break_the_commit(await session())
        return Response("done")

    status = await bench.get(handler)
    assert await bench.stored() == "nothing"
    silent = "" if status == 500 or bench.raised else ", and nobody hears of the error"
    bench.shows(f"{status}{silent}")


async def test_commit_turned_into_rollback(bench: Bench) -> None:
    """A statement fails and the handler goes on: PostgreSQL answers COMMIT with ROLLBACK, and no error."""

    async def handler(session: GetSession) -> Response:
        await write(await session(), "a")
        with pytest.raises(DBAPIError):
            await (await session()).execute(text("SELECT 1 / 0"))
        return Response("done")

    status = await bench.get(handler)
    bench.shows(f"{status}, {await bench.stored()} stored")


async def test_error_status(bench: Bench) -> None:
    """The handler writes a, and returns a response with the status 409."""

    async def handler(session: GetSession) -> Response:
        await write(await session(), "a")
        return Response("no", 409)

    assert await bench.get(handler) == 409
    bench.shows(fate(await bench.stored(), bench.out))


async def test_stream_raises(bench: Bench) -> None:
    """The handler writes a; the body of the response, half sent, writes b and raises."""

    refused = Refused()

    async def handler(session: GetSession) -> Response:
        await write(await session(), "a")

        async def body() -> AsyncIterator[bytes]:
            yield b"half"
            with refused:
                await write(await session(), "b")
            raise LookupError

        return StreamingResponse(body())

    assert await bench.get(handler) == 200
    bench.shows(fate(await bench.stored(), bench.out) + refused.text)


async def test_background_task(bench: Bench) -> None:
    """The handler writes a, its background task writes b."""

    refused = Refused()

    async def handler(session: GetSession) -> Response:
        await write(await session(), "a")

        async def later() -> None:
            with refused:
                await write(await session(), "b")

        return Response("done", background=BackgroundTask(later))

    assert await bench.get(handler) == 200
    bench.shows(fate(await bench.stored(), bench.out) + refused.text)


async def test_task_outlives_the_request(bench: Bench) -> None:
    """A task that the handler has started asks for its session when the request is over."""
    over = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def handler(session: GetSession) -> Response:
        await session()

        async def late() -> None:
            await over.wait()
            await write(await session(), "late")

        tasks.append(asyncio.create_task(late()))
        return Response("done")

    assert await bench.get(handler) == 200
    over.set()
    [error] = await asyncio.gather(*tasks, return_exceptions=True)
    bench.shows(f"`{type(error).__name__}`" if error else fate(await bench.stored(), bench.out))


class Refused:
    """Notes an error, which goes on: ``with refused: ...``."""

    text = ""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.text = f", b refused: `{kind.__name__}`"
