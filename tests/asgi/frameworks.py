"""One handler, in four frameworks: each makes of what it returns its own response, and its own error.

The middleware is put where each framework's users put it: ``add_middleware`` of Starlette and FastAPI, around
the application in Litestar and Quart.
"""

import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import fastapi
import quart
import starlette.applications
import starlette.background
import starlette.exceptions
import starlette.requests
import starlette.responses
import starlette.routing
import werkzeug.exceptions
from sqlalchemy.exc import IntegrityError

from scoped_async.asgi import Application, ScopeMiddleware

with warnings.catch_warnings(action="ignore"):  # advanced-alchemy, which it imports, on SQLAlchemy 2.1
    import litestar
    import litestar.background_tasks
    import litestar.exceptions
    import litestar.response


@dataclass
class Reply:
    """What a handler answers: its status and its text, at once or piece by piece."""

    status: int = 200
    text: str | AsyncIterator[str] = "done"
    background: Callable[[], Awaitable[None]] | None = None


class Refused(Exception):
    """The handler refuses with a status; each framework has its own exception for that."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


Handler = Callable[[], Awaitable[Reply]]
Middlewares = Sequence[tuple[Any, dict[str, Any]]]
"""Classes and their options, the outermost first."""


def starlette_app(handler: Handler, middlewares: Middlewares) -> Application:
    async def endpoint(request: starlette.requests.Request) -> starlette.responses.Response:
        try:
            reply = await handler()
        except Refused as refused:
            raise starlette.exceptions.HTTPException(refused.status) from None
        return starlette_response(reply)

    app = starlette.applications.Starlette(
        routes=[starlette.routing.Route("/", endpoint)],
        exception_handlers={IntegrityError: conflict},
    )
    for middleware, options in reversed(middlewares):
        app.add_middleware(middleware, **options)
    return app


def fastapi_app(handler: Handler, middlewares: Middlewares) -> Application:
    app = fastapi.FastAPI(exception_handlers={IntegrityError: conflict})

    @app.get("/")
    async def endpoint() -> Any:
        try:
            reply = await handler()
        except Refused as refused:
            raise fastapi.HTTPException(refused.status) from None
        return starlette_response(reply)

    for middleware, options in reversed(middlewares):
        app.add_middleware(middleware, **options)
    return app


async def conflict(request: starlette.requests.Request, error: Exception) -> starlette.responses.Response:
    """The exception handler that the application registers for IntegrityError."""
    return starlette.responses.JSONResponse({"conflict": type(error).__name__}, 409)


def starlette_response(reply: Reply) -> starlette.responses.Response:
    background = None if reply.background is None else starlette.background.BackgroundTask(reply.background)
    if isinstance(reply.text, str):
        return starlette.responses.PlainTextResponse(reply.text, reply.status, background=background)
    return starlette.responses.StreamingResponse(reply.text, reply.status, background=background)


def litestar_app(handler: Handler, middlewares: Middlewares) -> Application:
    @litestar.get("/")
    async def endpoint() -> litestar.Response[Any]:
        try:
            reply = await handler()
        except Refused as refused:
            raise litestar.exceptions.HTTPException(status_code=refused.status) from None
        background = (
            None if reply.background is None else litestar.background_tasks.BackgroundTask(reply.background)
        )
        if isinstance(reply.text, str):
            return litestar.Response(reply.text, status_code=reply.status, background=background)
        return litestar.response.Stream(reply.text, status_code=reply.status, background=background)

    return wrapped(litestar.Litestar([endpoint], openapi_config=None), middlewares)


def quart_app(handler: Handler, middlewares: Middlewares) -> Application:
    app = quart.Quart(__name__)

    @app.get("/")
    async def endpoint() -> quart.Response:
        try:
            reply = await handler()
        except Refused as refused:
            raise werkzeug.exceptions.default_exceptions[refused.status] from None
        response = quart.Response(reply.text, status=reply.status)
        response.timeout = None
        return response

    return wrapped(app, middlewares)


def wrapped(app: Any, middlewares: Middlewares) -> Application:
    for middleware, options in reversed(middlewares):
        app = middleware(app, **options)
    return app  # type: ignore[no-any-return]


FRAMEWORKS: dict[str, Callable[[Handler, Middlewares], Application]] = {
    "starlette": starlette_app,
    "fastapi": fastapi_app,
    "litestar": litestar_app,
    "quart": quart_app,
}


def scoped(**options: Any) -> Middlewares:
    """The middleware alone, with its options."""
    return [(ScopeMiddleware, options)]
