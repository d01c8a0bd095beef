"""Under the middlewares that applications use, in any order, and two levels deep: the same results."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import fastapi
import pytest
import starlette.applications
import starlette.middleware
from frameworks import Middlewares, Reply, starlette_response
from frameworks import conflict as answer_conflict
from service import Service, hang_up
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from entries import Entry, break_the_commit, write
from scoped_async import current_scope
from scoped_async.asgi import ScopeMiddleware
from servers import client_of

Next = Callable[[Request], Awaitable[Response]]


async def dispatch(request: Request, call_next: Next) -> Response:
    """What ``@app.middleware("http")`` decorates."""
    response = await call_next(request)
    response.headers["x-seen"] = "yes"
    return response


SCOPE: tuple[Any, dict[str, Any]] = (ScopeMiddleware, {"commit": True})
OTHERS: list[tuple[Any, dict[str, Any]]] = [
    (BaseHTTPMiddleware, {"dispatch": dispatch}),
    (GZipMiddleware, {"minimum_size": 1}),
    (CORSMiddleware, {"allow_origins": ["*"]}),
]
ORDERS: list[Middlewares] = [
    *itertools.permutations([SCOPE, *OTHERS]),
    [OTHERS[0], OTHERS[0], SCOPE],
    [OTHERS[0], SCOPE, OTHERS[0]],
    [SCOPE, OTHERS[0], OTHERS[0]],
    [SCOPE, OTHERS[0], SCOPE, OTHERS[0]],
]


def name_of(order: Middlewares) -> str:
    return "-".join(middleware.__name__.removesuffix("Middleware") for middleware, _ in order)


in_any_order = pytest.mark.parametrize("order", ORDERS, ids=name_of)
with_its_own_task = pytest.mark.parametrize("order", ORDERS[-4:], ids=name_of)
"""BaseHTTPMiddleware runs what is within it in a task of its own, with a copy of the Context."""


@in_any_order
class TestOrder:
    """All cases by one application each, to keep it short: what they mean is told in test_table."""

    async def test_the_same_results(self, service: Service, order: Middlewares) -> None:
        async def commit() -> Reply:
            await write(service.Session, "a")
            return Reply(text="done" * 100)

        async def refuse() -> Reply:
            await write(service.Session, "b")
            return Reply(422)

        async def conflict() -> Reply:
            await write(service.Session, "c")
            await break_the_commit(service.Session)
            return Reply()

        async def mistake() -> Reply:
            await write(service.Session, "d")
            raise ValueError("a mistake of the handler")

        async def stream() -> Reply:
            async def pieces() -> AsyncIterator[str]:
                await write(service.Session, "f")
                yield "piece"

            async def work() -> None:
                await write(service.Session, "g")

            await write(service.Session, "e")
            return Reply(text=pieces(), background=work)

        handlers = {
            "/commit": commit,
            "/refuse": refuse,
            "/conflict": conflict,
            "/mistake": mistake,
            "/stream": stream,
        }

        async def endpoint(request: Request) -> Response:
            return starlette_response(await handlers[request.url.path]())

        in_turn = [starlette.applications.Starlette, fastapi.FastAPI]
        app: Any = in_turn[ORDERS.index(order) % 2]()
        for path in handlers:
            app.router.routes.append(Route(path, endpoint))
        app.add_exception_handler(IntegrityError, answer_conflict)
        for middleware, options in reversed(order):
            app.add_middleware(middleware, **options)

        expected = {"/commit": 200, "/refuse": 422, "/conflict": 409, "/mistake": 500, "/stream": 200}
        async with client_of(service.watched(app)) as client:
            statuses = {}
            for path in handlers:
                statuses[path] = (await client.get(path, headers={"origin": "http://a"})).status_code
                await service.left.wait()
                assert service.out == 0
                if path == "/commit":
                    assert service.stored_at_start == {"a"}
        assert statuses == expected
        assert await service.stored() == {"a", "e", "f", "g"}


@with_its_own_task
class TestTaskOfItsOwn:
    async def test_a_disconnect_in_mid_stream(self, service: Service, order: Middlewares) -> None:
        streaming = asyncio.Event()

        async def pieces() -> AsyncIterator[str]:
            yield "piece"
            await write(service.Session, "b")
            streaming.set()
            await asyncio.Event().wait()

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(text=pieces())

        async with service.serve("starlette", handler, order) as client:
            await hang_up(client, streaming.wait)
            await service.left.wait()
        assert (service.out, await service.stored()) == (0, {"a"})

    async def test_a_stream_of_rows(self, service: Service, order: Middlewares) -> None:
        """The body is read from a cursor of the server; it is whole, wherever the commit comes."""

        async def pieces() -> AsyncIterator[str]:
            async for text in await service.Session.stream_scalars(select(Entry.text).order_by(Entry.id)):
                yield f"{text} "

        async def handler() -> Reply:
            service.Session.add_all(Entry(text=str(number)) for number in range(500))
            return Reply(text=pieces())

        async with service.serve("starlette", handler, order) as client:
            response = await client.get("/")
        assert response.text == "".join(f"{number} " for number in range(500))


class TestWorkOfTheMiddleware:
    """What an inner middleware does once the endpoint has answered belongs to the unit, too."""

    @pytest.mark.parametrize(("status", "kept"), [(200, {"a", "b"}), (422, set[str]())])
    async def test_its_fate(self, service: Service, status: int, kept: set[str]) -> None:
        async def audit(request: Request, call_next: Next) -> Response:
            response = await call_next(request)
            await write(service.Session, "b")
            return response

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(status)

        await service.get("starlette", handler, [SCOPE, (BaseHTTPMiddleware, {"dispatch": audit})])
        assert service.stored_at_start == kept


async def test_a_mounted_application_has_handlers_of_its_own(service: Service) -> None:
    async def endpoint(request: Request) -> Response:
        await break_the_commit(service.Session)
        return Response("done " + current_scope().name)

    inner = starlette.applications.Starlette(
        routes=[Route("/there", endpoint)], exception_handlers={IntegrityError: answer_conflict}
    )
    app = starlette.applications.Starlette(
        routes=[Mount("/inner", inner)],
        middleware=[starlette.middleware.Middleware(ScopeMiddleware, commit=True)],
    )
    async with client_of(service.watched(app)) as client:
        assert (await client.get("/inner/there")).status_code == 409
    assert await service.stored() == set()
