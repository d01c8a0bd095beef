"""Streams of gRPC: the client hears of success at their end, so all of one is a transaction."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from grpc import StatusCode
from protocol_database import Database
from sqlalchemy import text

from entries import write
from grpc_calls import METHOD, Service
from scoped_async import (
    current_scope,
)
from watch import until


class TestStream:
    """The client hears of success at the end of a stream, so all of it is one transaction."""

    async def test_messages_come_before_the_commit(self, database: Database) -> None:
        first_has_arrived = asyncio.Event()

        async def handle(request: bytes, context: Any) -> AsyncIterator[bytes]:
            await write(database.Session, "a")
            yield b"first"
            await first_has_arrived.wait()
            await write(database.Session, "b")
            yield b"second"

        arrived: list[Any] = []
        async with Service("unary_stream", handle).serve() as call:
            calling = call()
            async for message in calling:
                arrived.append((message, await database.stored()))
                first_has_arrived.set()
            assert await calling.code() is StatusCode.OK
        assert [message for message, _ in arrived] == [b"first", b"second"]
        assert arrived[0][1] == set()
        assert await database.stored() == {"a", "b"}

    async def test_a_stream_of_rows_that_is_left_half_read(self, database: Database) -> None:
        """The call is over, so nobody goes on with it, and it does not stand in the way of the commit."""

        async def handle(request: bytes, context: Any) -> AsyncIterator[bytes]:
            await write(database.Session, "a")
            rows = await database.Session.stream_scalars(text("SELECT generate_series(1, 2000)"))
            yield b"%d" % await anext(rows)

        assert (await Service("unary_stream", handle).call())[0] is StatusCode.OK
        assert await database.stored() == {"a"}

    async def test_an_exception_in_mid_stream(self, database: Database) -> None:
        async def handle(request: bytes, context: Any) -> AsyncIterator[bytes]:
            await write(database.Session, "a")
            yield b"first"
            raise LookupError

        assert (await Service("unary_stream", handle).call())[0] is StatusCode.UNKNOWN
        assert await database.stored() == set()

    async def test_a_generator_that_is_dropped_at_a_yield(self, database: Database) -> None:
        """grpc does not close it when the client has gone; the event loop does, and so the handler's."""
        cleaned_up: list[object] = []

        async def handle(request: bytes, context: Any) -> AsyncIterator[bytes]:
            try:
                await write(database.Session, "a")
                while True:
                    yield b"x" * 100_000
            finally:
                cleaned_up.append(current_scope().name)

        service = Service("unary_stream", handle)
        async with service.serve() as call:
            calling = call()
            await calling.read()  # one, and no more: the server is held up in sending the others
            calling.cancel()
            await service.watch.end()

            async def back_in_the_pool() -> bool:
                return database.out == 0 and bool(cleaned_up)

            await until(back_in_the_pool)
        assert (cleaned_up, await database.stored()) == ([METHOD], set())
