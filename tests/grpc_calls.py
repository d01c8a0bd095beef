"""A grpc.aio server on loopback with one method, which may be of any kind and style, and its client."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from scoped_async.grpc import ScopeInterceptor

Work = Callable[[Any], Awaitable[None]]
"""What a handler does, given its context; it answers "done" when that is over."""
METHOD = "/tests.Service/Do"


def unary_unary(work: Work) -> Any:
    async def handle(request: bytes, context: Any) -> bytes:
        await work(context)
        return b"done"

    return handle


def stream_unary(work: Work) -> Any:
    async def handle(requests: AsyncIterator[bytes], context: Any) -> bytes:
        async for _ in requests:
            pass
        await work(context)
        return b"done"

    return handle


def unary_stream(work: Work) -> Any:
    async def handle(request: bytes, context: Any) -> AsyncIterator[bytes]:
        await work(context)
        yield b"done"

    return handle


def unary_stream_written(work: Work) -> Any:
    """In the style that writes its messages."""

    async def handle(request: bytes, context: Any) -> None:
        await work(context)
        await context.write(b"done")

    return handle


def stream_stream(work: Work) -> Any:
    async def handle(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for _ in requests:
            await work(context)
        yield b"done"

    return handle


def stream_stream_written(work: Work) -> Any:
    async def handle(requests: AsyncIterator[bytes], context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            await work(context)
        await context.write(b"done")

    return handle


KINDS: dict[str, Callable[[Work], Any]] = {
    kind.__name__: kind
    for kind in (
        unary_unary,
        stream_unary,
        unary_stream,
        unary_stream_written,
        stream_stream,
        stream_stream_written,
    )
}


class Watch(grpc.aio.ServerInterceptor):
    """Sees each call from outside of the scope."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Any]] = []
        self.started = asyncio.Event()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.append(task)
        self.started.set()
        return await continuation(handler_call_details)

    async def end(self) -> None:
        """Return when every call has ended on the server, too."""
        if self.tasks:
            await asyncio.wait(self.tasks)


@dataclass
class Service:
    """One method, of this kind, behind the interceptor."""

    kind: str
    handler: Any
    interceptors: Sequence[Any] = field(default_factory=lambda: [ScopeInterceptor(commit=True)])
    serializer: Any = bytes
    watch: Watch = field(default_factory=Watch)

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[Callable[..., Any]]:
        """A function that calls the method."""
        arity = "_".join(self.kind.split("_")[:2])
        make = getattr(grpc, f"{arity}_rpc_method_handler")
        method = make(self.handler, bytes, self.serializer)
        server = grpc.aio.server(interceptors=[self.watch, *self.interceptors])
        service, name = METHOD.strip("/").split("/")
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {name: method}),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

                def call(method: str = METHOD, requests: Any = (b"do",), **options: Any) -> Any:
                    stub = getattr(channel, arity)(method)
                    return stub(requests if arity.startswith("stream") else b"do", **options)

                yield call
        finally:
            await server.stop(None)

    async def call(self, **options: Any) -> tuple[grpc.StatusCode, str | None]:
        """One call; returns its status and details when it has ended on the server, too."""
        async with self.serve() as call:
            answer = await outcome(call(**options))
            await self.watch.end()
        return answer


async def outcome(call: Any) -> tuple[grpc.StatusCode, str | None]:
    """The status of a call and its details; or OK and what was answered."""
    try:
        if hasattr(call, "read"):
            answer = b"".join([message async for message in call])
        else:
            answer = await call
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details()
    return await call.code(), answer.decode()
