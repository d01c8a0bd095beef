"""Starlette's exception handlers answer a commit that fails as they answer what an endpoint raises."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import Body, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from frameworks import conflict, scoped
from service import Service
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from starlette.middleware.base import BaseHTTPMiddleware

from entries import break_the_commit
from scoped_async.asgi import Application, Message, Receive, ScopeMiddleware, Send
from servers import client_of

Handler = Callable[[Request, Exception], Awaitable[Response]]


class PassesACopy:
    """A middleware that does as the ASGI specification asks: it changes a copy of the scope."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, asgi: Any, receive: Receive, send: Send) -> None:
        await self.app({**asgi, "state": {}}, receive, send)


async def forward(request: Any, call_next: Any) -> Any:
    return await call_next(request)


def app_with(service: Service, handler: Handler, *others: Any, key: Any = IntegrityError) -> FastAPI:
    """POST /raised and /committed fail alike, the one in the endpoint, the other by the COMMIT."""
    handlers: dict[Any, Any] = {key: handler}
    app = FastAPI(exception_handlers=handlers)
    for other, options in reversed([*scoped(commit=True), *others]):
        app.add_middleware(other, **options)

    @app.post("/raised")
    async def raised(payload: Any = Body(None)) -> None:  # noqa: B008
        await break_the_commit(service.Session)
        await service.Session.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))

    @app.post("/committed")
    async def committed(payload: Any = Body(None)) -> None:  # noqa: B008
        await break_the_commit(service.Session)

    return app


async def post(client: httpx.AsyncClient, path: str) -> tuple[int, str]:
    response = await client.post(path, json={"amount": 10}, timeout=10)
    return response.status_code, response.text


both = pytest.mark.parametrize("path", ["/raised", "/committed"])
anywhere = pytest.mark.parametrize(
    "others",
    [[], [(PassesACopy, {})], [(BaseHTTPMiddleware, {"dispatch": forward})]],
    ids=["nothing between", "a copy of the scope", "BaseHTTPMiddleware"],
)


@both
@anywhere
class TestTheSameAnswer:
    async def test_of_the_handler(self, service: Service, path: str, others: list[Any]) -> None:
        async with client_of(app_with(service, conflict, *others)) as client:
            assert await post(client, path) == (409, '{"conflict":"IntegrityError"}')

    async def test_of_one_that_raises_what_another_handles(
        self, service: Service, path: str, others: list[Any]
    ) -> None:
        async def teapot(request: Request, error: Exception) -> Response:
            raise HTTPException(418, "short and stout")

        async with client_of(app_with(service, teapot, *others)) as client:
            assert await post(client, path) == (418, '{"detail":"short and stout"}')

    @pytest.mark.parametrize("key", [Exception, 500])
    async def test_of_what_stands_outside(
        self, service: Service, path: str, others: list[Any], key: Any
    ) -> None:
        """Handlers of ``Exception`` and 500 are called by Starlette itself, around all middlewares."""

        async def unknown(request: Request, error: Exception) -> Response:
            return JSONResponse(type(error).__name__, 503)

        async with client_of(service.watched(app_with(service, unknown, *others, key=key))) as client:
            assert await post(client, path) == (503, '"IntegrityError"')
        assert [type(error) for error in service.raised] == [IntegrityError]


@both
async def test_a_handler_that_reads_the_request(service: Service, path: str) -> None:
    """Nobody waits for ever: what the endpoint has read is read, and the body is empty then.

    What streams its answer goes on to listen for the end of the connection.
    """

    async def echo(request: Request, error: Exception) -> Response:
        return StreamingResponse(iter([b"you sent ", await request.body()]), 409)

    async with client_of(app_with(service, echo)) as client:
        sent = "you sent " + ('{"amount":10}' if path == "/raised" else "")
        assert await post(client, path) == (409, sent)


async def test_a_handler_that_reads_what_nobody_has_read(service: Service) -> None:
    async def echo(request: Request, error: Exception) -> Response:
        return Response(await request.body(), 409)

    app = app_with(service, echo)

    @app.post("/unread")
    async def unread() -> None:
        await break_the_commit(service.Session)

    async with client_of(app) as client:
        assert await post(client, "/unread") == (409, '{"amount":10}')


async def test_what_is_no_application_of_starlette(service: Service) -> None:
    """Its ``exception_handlers``, if it has some, are not Starlette's."""

    class Other:
        def __init__(self) -> None:
            self.exception_handlers = {IntegrityError: conflict}

    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        if asgi["type"] == "http":
            asgi["app"] = Other()
            await break_the_commit(service.Session)
            message: Message = {"type": "http.response.start", "status": 200}
            await send(message)

    async with client_of(service.watched(ScopeMiddleware(app, commit=True))) as client:
        assert (await client.get("/")).status_code == 500
    assert [type(error) for error in service.raised] == [IntegrityError]
