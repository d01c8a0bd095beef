"""A request through the middleware, beside a session written by hand in the handler, without a framework."""

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import Any

from scoped_async import AsyncScopedSession
from scoped_async.asgi import ScopeMiddleware

from .database import SELECT, sessions

Loop = Callable[[int], Awaitable[None]]

Session = AsyncScopedSession(sessions)

_START = {"type": "http.response.start", "status": 200, "headers": []}
_BODY = {"type": "http.response.body", "body": b"1"}


async def request_unused_handler(asgi: Any, receive: Any, send: Any) -> None:
    await send(_START)
    await send(_BODY)


async def request_touched_handler(asgi: Any, receive: Any, send: Any) -> None:
    Session()
    await send(_START)
    await send(_BODY)


async def request_select_handler(asgi: Any, receive: Any, send: Any) -> None:
    await Session.scalar(SELECT)
    await send(_START)
    await send(_BODY)


async def touched_by_hand(asgi: Any, receive: Any, send: Any) -> None:
    async with sessions():
        await send(_START)
        await send(_BODY)


async def select_by_hand(asgi: Any, receive: Any, send: Any) -> None:
    async with sessions() as session:
        await session.scalar(SELECT)
        await send(_START)
        await send(_BODY)


def requests(application: Any) -> Loop:
    """``n`` requests to an ASGI application, one after the other."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    async def loop(n: int) -> None:
        for _ in range(n):
            asgi = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
            await application(asgi, receive, send)

    return loop


WITHOUT_DATABASE: dict[str, Loop] = {
    "request, unused: by hand": requests(request_unused_handler),
    "request, unused: middleware": requests(ScopeMiddleware(request_unused_handler, commit=True)),
    "request, touched: by hand": requests(touched_by_hand),
    "request, touched: middleware": requests(ScopeMiddleware(request_touched_handler, commit=True)),
}
if find_spec("context_async_sqlalchemy"):
    from .peers import by_context_async_sqlalchemy as peer

    async def touched_by_peer(asgi: Any, receive: Any, send: Any) -> None:
        await peer.db_session(peer.connection)
        await send(_START)
        await send(_BODY)

    peers_middleware = peer.ASGIHTTPDBSessionMiddleware(touched_by_peer)
    WITHOUT_DATABASE["request, touched: context-async-sqlalchemy"] = requests(peers_middleware)
ON_DATABASE: dict[str, Loop] = {
    "request, select: by hand": requests(select_by_hand),
    "request, select: middleware": requests(ScopeMiddleware(request_select_handler)),
}
