"""The task that serves a request or a call is cancelled at each of its awaits, as by a server that gives up.

The awaits are those within SQLAlchemy, enumerated by its own ``sqlalchemy.testing.cancellation``: of the
connect, of each statement, and of what is done before the client is told, and after that.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import aiohttp
import grpc.aio
import pytest
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from aiohttp_site import Site
from cancelling import cancellation, item
from grpc_calls import KINDS, Service, outcome
from scoped_async import AsyncScopedSession
from scoped_async.aiohttp import scope_middleware
from scoped_async.grpc import ScopeInterceptor
from watch import Proxy, one_connection, out, schema, silence

Ask = Callable[[], Awaitable[None]]


class Swept:
    """A service whose tasks are made known to what cancels them."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self.Session: Proxy = AsyncScopedSession(async_sessionmaker[AsyncSession]())
        self.log = log
        self.points: Any = cancellation.AwaitPoints()
        self.was_cancelled = False
        """Whether the last task ended by a cancellation."""

    def enter(self) -> None:
        """The task is here, and the scope is not yet."""
        self.points._task = asyncio.current_task()

    async def work(self) -> None:
        self.Session.add(item())
        await self.Session.flush()

    @asynccontextmanager
    async def by_aiohttp(self, way: str) -> AsyncIterator[Ask]:
        @web.middleware
        async def watch(request: web.Request, handler: Any) -> web.StreamResponse:
            self.enter()
            self.was_cancelled = False
            try:
                return await handler(request)  # type: ignore[no-any-return]
            except asyncio.CancelledError:
                self.was_cancelled = True
                raise

        async def pieces() -> AsyncIterator[bytes]:
            await self.work()
            yield b"piece"

        async def handler(request: web.Request) -> web.StreamResponse:
            await self.work()
            if way == "returned":
                return web.Response()
            if way == "streamed":
                return web.Response(body=pieces())
            response = web.StreamResponse()
            await response.prepare(request)
            await self.work()
            return response

        site = Site(handler, [watch, scope_middleware(commit=True)], handler_cancellation=False)
        async with site.serve() as client:

            async def ask() -> None:
                site.left.clear()
                try:
                    async with client.post("/", headers={"Connection": "close"}) as response:
                        await response.read()
                except aiohttp.ClientError:
                    pass  # it was cancelled
                await site.left.wait()

            yield ask

    @asynccontextmanager
    async def by_grpc(self, kind: str) -> AsyncIterator[Ask]:
        swept = self

        class Enter(grpc.aio.ServerInterceptor):
            async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
                swept.enter()
                return await continuation(handler_call_details)

        async def work(context: Any) -> None:
            await self.work()

        interceptors = [Enter(), ScopeInterceptor(commit=True)]
        service = Service(kind, KINDS[kind](work), interceptors)
        async with service.serve() as call:

            async def ask() -> None:
                self.log.clear()
                service.watch.started.clear()
                calling = asyncio.create_task(outcome(call()))
                await service.watch.started.wait()
                await service.watch.end()
                self.was_cancelled = "RPC cancelled" in self.log.text
                if self.was_cancelled:  # grpc sends no status then: the client would wait
                    calling.cancel()
                await asyncio.wait([calling])

            with self.log.at_level(logging.DEBUG, "grpc._cython.cygrpc"):
                yield ask


WAYS = [
    *(("aiohttp", way) for way in ("returned", "prepared", "streamed")),
    *(("grpc", kind) for kind in KINDS),
]


@pytest.mark.parametrize("pool", ["cold", "warm"])
@pytest.mark.parametrize(("protocol", "way"), WAYS)
async def test_at_every_await(
    postgres_url: str, caplog: pytest.LogCaptureFixture, protocol: str, way: str, pool: str
) -> None:
    """Nothing out the moment that it is over, nothing lost, nothing complains, and the next request works."""
    swept = Swept(caplog)
    problems: list[str] = []
    serve = swept.by_aiohttp if protocol == "aiohttp" else swept.by_grpc
    async with schema(postgres_url) as name, silence(), serve(way) as ask:
        for point in count(1):
            engine = one_connection(postgres_url, name)
            cancelled, message = await cancelled_at(swept, engine, ask, point, warm=pool == "warm")
            problems += [f"at {point}: {message}"] if message else []
            if not cancelled:
                break
    assert problems == []
    assert point > 2


async def cancelled_at(
    swept: Swept, engine: AsyncEngine, ask: Ask, point: int, *, warm: bool
) -> tuple[bool, str]:
    """Whether there were that many awaits, and what went wrong."""
    swept.Session.configure(bind=engine)
    with cancellation.connection_accounting(engine) as accounting:
        if warm:
            await ask()
        with cancellation.await_points((point,)) as swept.points:
            await ask()
        left_out, cancelled = out(engine), bool(swept.points.cancelled_at)
        messages = [f"{left_out} connections were out when it was over"] if left_out else []
        messages += [] if swept.was_cancelled is cancelled else ["the cancellation was lost"]
        accounting.record_lost_slots()
        await accounting.record_next_use(lambda _: ask(), engine)
        await engine.dispose()
    return cancelled, "; ".join(messages + accounting.get_failure_messages())
