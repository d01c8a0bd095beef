"""Tasks and threads that a request starts, in every framework."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import fastapi
import litestar
import pytest
import quart
import starlette.applications
import starlette.requests
import starlette.responses
import starlette.routing
from frameworks import FRAMEWORKS, Reply, wrapped
from service import Service
from sqlalchemy import func, select, text

from entries import Entry, write
from scoped_async import ForeignThreadError, ScopeClosedError, current_scope, scope
from scoped_async.asgi import Application, ScopeMiddleware
from servers import client_of
from watch import until

everywhere = pytest.mark.parametrize("framework", FRAMEWORKS)


@everywhere
class TestTaskThatOutlivesTheRequest:
    """A task of a request that has ended has no scope any more; it opens its own."""

    async def test_it_is_told_so(self, service: Service, framework: str) -> None:
        tasks: list[asyncio.Task[None]] = []
        request_has_ended = asyncio.Event()

        async def work() -> None:
            await request_has_ended.wait()
            await write(service.Session, "late")

        async def handler() -> Reply:
            tasks.append(asyncio.create_task(work()))
            return Reply()

        await service.get(framework, handler)
        request_has_ended.set()
        with pytest.raises(ScopeClosedError, match=r"the scope GET / is closed.*Open a scope of your own"):
            await tasks[0]

    async def test_with_a_scope_of_its_own(self, service: Service, framework: str) -> None:
        tasks: list[asyncio.Task[None]] = []
        request_has_ended = asyncio.Event()

        @scope(commit=True)
        async def work() -> None:
            assert current_scope().parent is None
            await write(service.Session, "late")

        async def late() -> None:
            await request_has_ended.wait()
            await work()

        async def handler() -> Reply:
            tasks.append(asyncio.create_task(late()))
            return Reply()

        await service.get(framework, handler)
        request_has_ended.set()
        await tasks[0]
        assert await service.stored() == {"late"}


@everywhere
class TestOperationInFlight:
    """What another task does in the scope while the response starts is waited for, and has its fate."""

    async def test_it_is_committed(self, service: Service, framework: str) -> None:
        statement = text("INSERT INTO entries (text) SELECT 'slow' FROM pg_sleep(0.2)")
        tasks: list[asyncio.Task[Any]] = []

        async def handler() -> Reply:
            await write(service.Session, "a")
            tasks.append(asyncio.create_task(service.Session.execute(statement)))
            await asyncio.sleep(0)
            return Reply()

        response = await service.get(framework, handler)
        assert response.status_code == 200
        assert service.stored_at_start == {"a", "slow"}
        await tasks[0]

    async def test_one_that_starts_meanwhile(self, service: Service, framework: str) -> None:
        """It waits for the commit before the answer, and works in the transaction after it."""
        async with service.engine.begin() as connection:
            for statement in GATE_AT_COMMIT:
                await connection.execute(text(statement))

        async def late() -> int | None:
            async with service.observer.connect() as connection:
                await until(lambda: connection.scalar(text(WAITS_AT_GATE)))
            count = asyncio.create_task(service.Session.scalar(select(func.count(Entry.id))))
            await asyncio.sleep(0)
            await gate.rollback()
            return await count

        tasks: list[asyncio.Task[int | None]] = []

        async def handler() -> Reply:
            tasks.append(asyncio.create_task(late()))
            await write(service.Session, "a")

            async def pieces() -> AsyncIterator[str]:
                yield str(await tasks[0])

            return Reply(text=pieces())

        async with service.observer.connect() as gate:
            await gate.execute(text("SELECT pg_advisory_xact_lock(42)"))
            response = await service.get(framework, handler)
        assert (response.status_code, response.text) == (200, "1")
        assert service.stored_at_start == {"a"}


GATE_AT_COMMIT = [
    "CREATE OR REPLACE FUNCTION wait_at_gate() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NULL; END $$",
    "CREATE CONSTRAINT TRIGGER gate AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION wait_at_gate()",
]
WAITS_AT_GATE = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted)"


def starlette_sync(work: Callable[[], None]) -> Application:
    def endpoint(request: starlette.requests.Request) -> starlette.responses.Response:
        work()
        return starlette.responses.Response()

    return starlette.applications.Starlette(routes=[starlette.routing.Route("/", endpoint)])


def fastapi_sync(work: Callable[[], None]) -> Application:
    app = fastapi.FastAPI()
    app.get("/")(lambda: work())
    return app


def fastapi_sync_dependency(work: Callable[[], None]) -> Application:
    app = fastapi.FastAPI()

    @app.get("/", dependencies=[fastapi.Depends(work)])
    async def endpoint() -> None: ...

    return app


def litestar_sync(work: Callable[[], None]) -> Application:
    @litestar.get("/", sync_to_thread=True)
    def endpoint() -> None:
        work()

    return litestar.Litestar([endpoint], openapi_config=None)  # type: ignore[return-value]


def quart_sync(work: Callable[[], None]) -> Application:
    app = quart.Quart(__name__)

    @app.get("/")
    def endpoint() -> str:
        work()
        return ""

    return app  # type: ignore[return-value]


@pytest.mark.parametrize(
    "make", [starlette_sync, fastapi_sync, fastapi_sync_dependency, litestar_sync, quart_sync]
)
async def test_sync_endpoints_run_in_another_thread(
    service: Service, make: Callable[[Callable[[], None]], Application]
) -> None:
    """A thread is refused, with the two ways out: an async function, or a call back into the loop."""
    refusals: list[str] = []

    def work() -> None:
        with pytest.raises(ForeignThreadError) as refusal:
            service.Session()
        refusals.append(str(refusal.value))

    async with client_of(wrapped(make(work), [(ScopeMiddleware, {})])) as client:
        assert (await client.get("/")).is_success
    assert "`async def`" in refusals[0]
    assert "anyio.from_thread.run" in refusals[0]


@pytest.mark.parametrize(("status", "stored"), [(200, {"background"}), (400, set[str]())])
async def test_a_background_task_of_quart_runs_beside_its_request(
    service: Service, status: int, stored: set[str]
) -> None:
    """So what it does before the request has ended is work of the request."""
    app, written = quart.Quart("app"), asyncio.Event()

    async def work() -> None:
        await write(service.Session, "background")
        written.set()

    @app.get("/")
    async def handler() -> tuple[str, int]:
        app.add_background_task(work)
        await written.wait()
        return "", status

    async with client_of(ScopeMiddleware(cast(Application, app), commit=True)) as client:
        assert (await client.get("/")).status_code == status
    assert await service.stored() == stored
