"""Starlette's exception handlers answer a commit that fails as they answer what an endpoint raises."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest
from fastapi import Body, Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from frameworks import conflict, scoped
from service import Service
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from starlette.middleware.base import BaseHTTPMiddleware

from entries import break_the_commit, write
from scoped_async.asgi import Application, Message, Receive, ScopeMiddleware, Send
from servers import client_of

Handler = Callable[[Request, Exception], Awaitable[Response]]


class PassesACopy:
    """A middleware that does as the ASGI specification asks: it changes a copy of the scope."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, asgi: Any, receive: Receive, send: Send) -> None:
        await self.app({**asgi, "state": {}}, receive, send)


class Translates:
    """A middleware that raises an error of its own for each that it gets."""

    def __init__(self, app: Application) -> None:
        self.app = app

    async def __call__(self, asgi: Any, receive: Receive, send: Send) -> None:
        try:
            await self.app(asgi, receive, send)
        except Exception as error:
            raise LookupError("there is none") from error


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


def app_that_fails(
    service: Service, end: str, *, others: Sequence[Any] = (), dependencies: Sequence[Any] = ()
) -> FastAPI:
    """POST / fails in the endpoint or by the COMMIT; ``others`` stand inside of ScopeMiddleware."""
    app = FastAPI()
    for other, options in reversed([*scoped(commit=True), *others]):
        app.add_middleware(other, **options)

    @app.post("/", dependencies=dependencies)
    async def endpoint() -> None:
        await break_the_commit(service.Session)
        if end == "the endpoint":
            await service.Session.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))

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


@pytest.mark.parametrize(("status", "stored"), [(303, {"a"}), (409, set[str]())])
async def test_the_status_of_the_handler_decides(service: Service, status: int, stored: set[str]) -> None:
    app = FastAPI()
    app.add_middleware(ScopeMiddleware, commit=True)

    @app.get("/")
    async def endpoint() -> None:
        await write(service.Session, "a")
        raise HTTPException(status)

    async with client_of(app) as client:
        assert (await client.get("/")).status_code == status
    assert await service.stored() == stored


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


@pytest.mark.parametrize("end", ["the endpoint", "the COMMIT"])
class TestWhatTheApplicationMakesOfIt:
    """An application may raise another error for the one it has got, wherever that comes from."""

    async def test_in_a_dependency_of_fastapi(self, service: Service, end: str) -> None:
        async def translate() -> AsyncIterator[None]:
            try:
                yield
            except IntegrityError:
                raise HTTPException(418, "short and stout") from None

        async with client_of(app_that_fails(service, end, dependencies=[Depends(translate)])) as client:
            assert await post(client, "/") == (418, '{"detail":"short and stout"}')

    async def test_in_a_middleware(self, service: Service, end: str) -> None:
        app = app_that_fails(service, end, others=[(Translates, {})])
        async with client_of(service.watched(app)) as client:
            assert (await post(client, "/"))[0] == 500
        assert [type(error) for error in service.raised] == [LookupError]

    async def test_in_a_middleware_around_the_handler(self, service: Service, end: str) -> None:
        """What has a handler is not the business of a middleware."""

        app = app_that_fails(service, end, others=[(Translates, {})])
        app.add_exception_handler(IntegrityError, conflict)
        async with client_of(app) as client:
            assert await post(client, "/") == (409, '{"conflict":"IntegrityError"}')

    async def test_in_one_that_is_none_of_starlette(self, service: Service, end: str) -> None:
        async def app(asgi: Any, receive: Receive, send: Send) -> None:
            try:
                await break_the_commit(service.Session)
                if end == "the endpoint":
                    await service.Session.execute(text("SET CONSTRAINTS ALL IMMEDIATE"))
                await send({"type": "http.response.start", "status": 200})
            except IntegrityError:
                raise LookupError("there is none") from None

        async with client_of(service.watched(ScopeMiddleware(app, commit=True))) as client:
            assert (await client.get("/")).status_code == 500
        assert [type(error) for error in service.raised] == [LookupError]

    async def test_in_the_end_of_a_dependency_that_fails_too(self, service: Service, end: str) -> None:
        async def fail() -> AsyncIterator[None]:
            try:
                yield
            finally:
                raise LookupError("there is none")

        app = app_that_fails(service, end, dependencies=[Depends(fail)])
        app.add_exception_handler(IntegrityError, conflict)
        async with client_of(service.watched(app)) as client:
            assert (await post(client, "/"))[0] == 500
        assert [type(error) for error in service.raised] == [LookupError]
