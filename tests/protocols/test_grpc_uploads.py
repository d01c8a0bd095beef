"""Messages that a client streams: grpc tells a handler of their end, and of a client that has gone, alike."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode
from protocol_database import Database

from entries import write
from grpc_calls import Service, outcome
from scoped_async.grpc import ScopeInterceptor

DONE = (StatusCode.OK, "done")


class Upload:
    """Handlers of each kind and style that store every message, and answer when there are no more."""

    def __init__(self, database: Database) -> None:
        self.Session = database.Session
        self.stored_one = asyncio.Event()
        self.heard: list[str] = []
        """Whether the handler took it for whole: then "the end"."""

    async def store(self, message: bytes) -> None:
        await write(self.Session, message.decode())
        self.stored_one.set()

    async def all_of(self, messages: AsyncIterator[bytes]) -> None:
        async for message in messages:
            await self.store(message)
        self.heard.append("the end")

    def handler(self, style: str) -> Any:
        async def stream_unary(messages: AsyncIterator[bytes], context: Any) -> bytes:
            await self.all_of(messages)
            return b"done"

        async def stream_unary_read(messages: object, context: Any) -> bytes:
            await self.all_of(read(context))
            return b"done"

        async def stream_unary_next(messages: AsyncIterator[bytes], context: Any) -> bytes:
            await self.store(await anext(messages))
            await self.all_of(messages)
            return b"done"

        async def stream_stream(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
            await self.all_of(messages)
            yield b"done"

        async def stream_stream_read(messages: object, context: Any) -> None:
            await self.all_of(read(context))
            await context.write(b"done")

        return locals()[style]


async def read(context: Any) -> AsyncIterator[bytes]:
    while (message := await context.read()) is not grpc.aio.EOF:
        yield message


class Wrap(grpc.aio.ServerInterceptor):
    """Puts an iterator of its own around the messages."""

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        handler = await continuation(handler_call_details)

        class Messages:
            def __init__(self, messages: AsyncIterator[bytes]) -> None:
                self.messages = messages

            async def __aiter__(self) -> AsyncIterator[bytes]:
                async for message in self.messages:
                    yield message.lower()

        async def wrapped(messages: AsyncIterator[bytes], context: Any) -> Any:
            return await handler.stream_unary(Messages(messages), context)

        return grpc.stream_unary_rpc_method_handler(wrapped)


STYLES = ["stream_unary", "stream_unary_read", "stream_unary_next", "stream_stream", "stream_stream_read"]


@pytest.mark.parametrize("style", STYLES)
class TestUpload:
    async def test_that_is_whole(self, database: Database, style: str) -> None:
        upload = Upload(database)
        async with Service(style, upload.handler(style)).serve() as call:
            assert await outcome(call(requests=[b"a", b"b"])) == DONE
        assert (upload.heard, await database.stored()) == (["the end"], {"a", "b"})

    @pytest.mark.parametrize("end", ["cancelled", "expired", "too large"])
    async def test_that_is_cut_short(self, database: Database, style: str, end: str) -> None:
        """The half that has arrived is rolled back, though the handler would have come to a good end.

        The client has gone, or its time is up, or grpc refuses a message, here one above its 4 MB.
        """
        upload = Upload(database)
        service = Service(style, upload.handler(style))
        async with service.serve() as call:
            call_is_over = asyncio.Event()

            async def half() -> AsyncIterator[bytes]:
                yield b"a"
                if end == "too large":
                    await upload.stored_one.wait()
                    yield bytes(5_000_000)
                await call_is_over.wait()

            calling = call(requests=half(), timeout=0.5 if end == "expired" else None)
            answer = asyncio.create_task(outcome(calling))
            if end == "cancelled":
                await upload.stored_one.wait()
                calling.cancel()
            await asyncio.wait([answer])
            await service.watch.end()
            call_is_over.set()
        assert "the end" not in upload.heard
        assert await database.stored() == set()


async def test_an_interceptor_further_out_wraps_the_messages(database: Database) -> None:
    """Its iterator is the one that the handler reads, and may be no more than iterable."""
    upload = Upload(database)
    interceptors = [Wrap(), ScopeInterceptor(commit=True)]
    service = Service("stream_unary", upload.handler("stream_unary"), interceptors)
    async with service.serve() as call:
        assert await outcome(call(requests=[b"A", b"B"])) == DONE
    assert await database.stored() == {"a", "b"}


async def test_a_handler_that_has_heard_enough(database: Database) -> None:
    """It answers a client that has not ended, and would go on: nobody waits for that."""

    async def handle(messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for message in messages:
            await write(database.Session, message.decode())
            break
        yield b"done"

    answered = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        yield b"a"
        await answered.wait()

    async with Service("stream_stream", handle).serve() as call:
        assert await outcome(call(requests=requests())) == DONE
        answered.set()
    assert await database.stored() == {"a"}
