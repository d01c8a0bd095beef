"""Dependencies of FastAPI that open a scope or a block, and the bridge to code that takes a session."""

from collections.abc import AsyncIterator
from typing import Annotated, Literal

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from service import Service
from sqlalchemy.ext.asyncio import AsyncSession

from entries import write
from scoped_async import ForeignThreadError, ScopeError, current_scope, scope
from scoped_async.asgi import ScopeMiddleware
from servers import client_of

Time = Literal["function", "request"]
"""When the code after the ``yield`` runs: before the response is sent, or after."""


@pytest.mark.parametrize("time", ["function", "request"])
async def test_a_dependency_that_opens_a_scope(service: Service, time: Time) -> None:
    """It has sessions and an outcome of its own, and closes in whatever Context FastAPI closes it."""

    async def unit() -> AsyncIterator[None]:
        async with scope(commit=True):
            yield

    app = FastAPI()
    app.add_middleware(ScopeMiddleware, commit=True)

    @app.get("/", dependencies=[Depends(unit, scope=time)])
    async def endpoint() -> str:
        await write(service.Session, "a")
        return "done"

    async with client_of(service.watched(app)) as client:
        assert (await client.get("/")).status_code == 200
        await service.left.wait()
    assert await service.stored() == {"a"}
    assert service.raised == []


class TestBridge:
    """``Depends(get_session)`` with an ``async def`` is the bridge; ``Depends(Session)`` is none."""

    async def test_the_session_of_the_request(self, service: Service) -> None:
        async def get_session() -> AsyncSession:
            return service.Session()

        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=True)

        @app.get("/")
        async def endpoint(session: Annotated[AsyncSession, Depends(get_session)]) -> bool:
            await write(session, "a")
            return session is service.Session()

        async with client_of(service.watched(app)) as client:
            assert (await client.get("/")).json() is True
        assert service.stored_at_start == {"a"}

    async def test_the_proxy_itself(self, service: Service) -> None:
        """FastAPI calls what is not async in a thread; the error says what to write instead."""
        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=True)

        @app.get("/")
        async def endpoint(session: Annotated[AsyncSession, Depends(service.Session)]) -> None: ...

        async with client_of(service.watched(app)) as client:
            assert (await client.get("/")).status_code == 500
        with pytest.raises(ForeignThreadError, match=r"Depends.*`async def` that returns `Session\(\)`"):
            raise service.raised[0]


class TestBlockAroundTheEndpoint:
    """A dependency's block that ends after the response: its outcome cannot be awaited by the answer."""

    def app(
        self, service: Service, propagation: Literal["join", "nested"], time: Time, *, status: int = 200
    ) -> FastAPI:
        async def block() -> AsyncIterator[None]:
            async with scope(propagation=propagation):
                yield

        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=True)

        @app.get("/", dependencies=[Depends(block, scope=time)])
        async def endpoint() -> JSONResponse:
            await write(service.Session, "a")
            return JSONResponse("done", status)

        return app

    @pytest.mark.parametrize("propagation", ["join", "nested"])
    async def test_it_ends_before_the_response(
        self, service: Service, propagation: Literal["join", "nested"]
    ) -> None:
        async with client_of(service.watched(self.app(service, propagation, "function"))) as client:
            assert (await client.get("/")).status_code == 200
        assert service.stored_at_start == {"a"}

    @pytest.mark.parametrize("propagation", ["join", "nested"])
    async def test_it_would_end_after_success_was_told(
        self, service: Service, propagation: Literal["join", "nested"]
    ) -> None:
        async with client_of(service.watched(self.app(service, propagation, "request"))) as client:
            assert (await client.get("/")).status_code == 500
        with pytest.raises(ScopeError, match=r'block.*is open.*scope="function"'):
            raise service.raised[0]
        assert await service.stored() == set()

    @pytest.mark.parametrize("propagation", ["join", "nested"])
    async def test_no_success_is_told(self, service: Service, propagation: Literal["join", "nested"]) -> None:
        """The response goes on, and the work is rolled back when the block has ended."""
        app = self.app(service, propagation, "request", status=422)
        async with client_of(service.watched(app)) as client:
            assert (await client.get("/")).status_code == 422
            await service.left.wait()
        assert (service.raised, await service.stored()) == ([], set())


class TestBeginAroundTheEndpoint:
    """A ``begin()`` around the endpoint would commit after the response."""

    def app(self, service: Service, *, commit: bool, status: int = 200) -> FastAPI:
        async def transaction() -> AsyncIterator[None]:
            async with service.Session.begin():
                yield

        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=commit)

        @app.get("/", dependencies=[Depends(transaction)])
        async def endpoint() -> JSONResponse:
            await write(service.Session, "a")
            return JSONResponse("done", status)

        return app

    async def test_the_middleware_commits_it(self, service: Service) -> None:
        async with client_of(service.watched(self.app(service, commit=True))) as client:
            assert (await client.get("/")).status_code == 200
            await service.left.wait()
        assert (service.stored_at_start, service.raised) == ({"a"}, [])

    async def test_the_middleware_never_commits(self, service: Service) -> None:
        """What it would commit is neither lost silently nor committed after success was told."""
        async with client_of(service.watched(self.app(service, commit=False))) as client:
            assert (await client.get("/")).status_code == 500
        with pytest.raises(ScopeError, match=r"begin\(\), is open"):
            raise service.raised[0]
        assert await service.stored() == set()

    async def test_no_success_is_told(self, service: Service) -> None:
        async with client_of(service.watched(self.app(service, commit=True, status=422))) as client:
            assert (await client.get("/")).status_code == 422
            await service.left.wait()
        assert (service.out_at_start, service.raised, await service.stored()) == (0, [], set())


class TestExceptionHandler:
    """A failed commit is answered by the handler that the application registered, whichever its kind."""

    async def test_it_works_in_the_scope_of_the_request(self, service: Service) -> None:
        """Everything is rolled back by then; what the handler itself does has the fate of its answer."""
        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=True)

        @app.exception_handler(KeyError)
        async def handler(request: Request, error: Exception) -> JSONResponse:
            await write(service.Session, "by the handler")
            return JSONResponse({"in": current_scope().name})

        @app.get("/")
        async def endpoint() -> str:
            await write(service.Session, "a")
            current_scope().after_commit(fail)
            return "done"

        async with client_of(service.watched(app)) as client:
            response = await client.get("/")
        assert (response.status_code, response.json()) == (200, {"in": "GET /"})
        assert service.stored_at_start == {"a", "by the handler"}

    async def test_it_may_be_sync(self, service: Service) -> None:
        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=True)
        app.add_exception_handler(KeyError, lambda request, error: JSONResponse(str(request.url.path), 418))

        @app.get("/{rest:path}")
        async def endpoint() -> str:
            current_scope().after_commit(fail)
            return "done"

        async with client_of(app) as client:
            response = await client.get("/some/where")
        assert (response.status_code, response.json()) == (418, "/some/where")

    async def test_for_everything(self, service: Service) -> None:
        """That of ``Exception`` is called by Starlette itself, outside of the middleware."""
        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=True)

        @app.exception_handler(Exception)
        async def handler(request: Request, error: Exception) -> JSONResponse:
            return JSONResponse(type(error).__name__, 503)

        @app.get("/")
        async def endpoint() -> str:
            current_scope().after_commit(fail)
            return "done"

        async with client_of(app) as client:
            response = await client.get("/")
        assert (response.status_code, response.json()) == (503, "KeyError")

    async def test_it_is_not_asked_again(self, service: Service) -> None:
        """What fails once the response has started, comes out to the server."""
        app = FastAPI()
        app.add_middleware(ScopeMiddleware, commit=True)
        asked: list[Exception] = []

        @app.exception_handler(KeyError)
        async def handler(request: Request, error: Exception) -> JSONResponse:
            asked.append(error)
            return JSONResponse("", 409)

        @app.get("/")
        async def endpoint() -> StreamingResponse:
            async def pieces() -> AsyncIterator[str]:
                yield "piece"
                current_scope().after_commit(fail)

            return StreamingResponse(pieces())

        async with client_of(service.watched(app)) as client:
            assert (await client.get("/")).text == "piece"
            await service.left.wait()
        assert [type(error) for error in service.raised] == [KeyError]
        assert asked == []


def fail() -> None:
    raise KeyError("a callback failed")
