"""Every promise of the middleware, kept in every framework: served for real, called by a real HTTP client."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from frameworks import FRAMEWORKS, Middlewares, Refused, Reply, scoped
from service import Service, hang_up
from sqlalchemy import event, func, orm, select, text
from sqlalchemy.exc import DBAPIError

from entries import Entry, break_the_commit, write
from scoped_async import RollbackOnlyError, scope
from servers import CancelOnDisconnect

everywhere = pytest.mark.parametrize(
    ("framework", "server"),
    [*((name, "uvicorn") for name in FRAMEWORKS), ("fastapi", "granian"), ("litestar", "granian")],
)
with_background_tasks = pytest.mark.parametrize(
    ("framework", "server"),
    [("starlette", "uvicorn"), ("fastapi", "uvicorn"), ("litestar", "uvicorn"), ("fastapi", "granian")],
)
"""Those of Quart outlive the request, so they need a scope of their own."""
ANSWER = {"starlette": 409, "fastapi": 409, "litestar": 500, "quart": 500}
"""A commit that IntegrityError refuses, answered by the application's own handler where that is reached."""


@everywhere
class TestSuccess:
    """200: COMMIT, then the start of the response, then its body, unbuffered and chunk by chunk."""

    async def test_it_is_committed_before_the_start(
        self, service: Service, framework: str, server: str
    ) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply()

        response = await service.get(framework, handler, server=server)
        assert (response.status_code, response.text) == (200, "done")
        assert service.stored_at_start == {"a"}
        assert service.out_at_start == 0

    async def test_chunk_by_chunk(self, service: Service, framework: str, server: str) -> None:
        first_has_arrived = asyncio.Event()

        async def pieces() -> AsyncIterator[str]:
            yield "first"
            await first_has_arrived.wait()
            yield "second"

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(text=pieces())

        async with (
            service.serve(framework, handler, server=server) as client,
            client.stream("GET", "/") as response,
        ):
            arrived = []
            async for piece in response.aiter_text():
                arrived.append(piece)
                assert await service.stored() == {"a"}
                first_has_arrived.set()
        assert arrived == ["first", "second"]

    async def test_nothing_is_touched(self, service: Service, framework: str, server: str) -> None:
        """A handler that leaves the database alone gets no session and no connection."""
        connections: list[object] = []
        sessions: list[object] = []
        event.listen(service.engine.sync_engine, "checkout", lambda *_: connections.append(1))

        class Counted(orm.Session):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                sessions.append(self)

        service.Session.configure(sync_session_class=Counted)

        async def handler() -> Reply:
            return Reply()

        assert (await service.get(framework, handler, server=server)).status_code == 200
        assert connections == sessions == []


@everywhere
class TestFailedCommit:
    """A commit that fails: no success reaches the client, and nothing of the old response goes on."""

    def assert_refused(self, service: Service, response: httpx.Response, status: int) -> None:
        assert response.status_code == status
        assert "done" not in response.text
        starts = [message for message in service.messages if message.startswith("start")]
        assert starts in ([], [f"start {status}"])  # none where the server answers
        assert service.stored_at_start in (None, set())

    async def test_by_a_constraint(self, service: Service, framework: str, server: str) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            await break_the_commit(service.Session)
            return Reply()

        response = await service.get(framework, handler, server=server)
        self.assert_refused(service, response, ANSWER[framework])
        assert await service.stored() == set()

    async def test_of_a_streamed_response(self, service: Service, framework: str, server: str) -> None:
        async def pieces() -> AsyncIterator[str]:
            yield "done"

        async def handler() -> Reply:
            await break_the_commit(service.Session)
            return Reply(text=pieces())

        response = await service.get(framework, handler, server=server)
        self.assert_refused(service, response, ANSWER[framework])
        assert await service.stored() == set()

    async def test_by_a_serialization_failure(self, service: Service, framework: str, server: str) -> None:
        """Two transactions that each count and then add: PostgreSQL lets one of them commit."""

        async def count_and_write(name: str) -> None:
            await service.Session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
            await service.Session.scalar(select(func.count()).select_from(Entry))
            await write(service.Session, name)

        async def handler() -> Reply:
            await count_and_write("a")
            async with scope(commit=True):
                await count_and_write("b")
            return Reply()

        response = await service.get(framework, handler, server=server)
        assert response.status_code == 500
        assert "start 200" not in service.messages
        assert await service.stored() == {"b"}

    async def test_by_a_server_that_is_gone(self, service: Service, framework: str, server: str) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            process = await service.Session.scalar(text("SELECT pg_backend_pid()"))
            async with service.observer.connect() as connection:
                await connection.execute(text(f"SELECT pg_terminate_backend({process}, 10000)"))
            return Reply()

        response = await service.get(framework, handler, server=server)
        self.assert_refused(service, response, 500)
        assert await service.stored() == set()

    async def test_that_the_server_made_a_rollback(
        self, service: Service, framework: str, server: str
    ) -> None:
        """PostgreSQL answers COMMIT with ROLLBACK, and no error, once a statement has failed."""

        async def handler() -> Reply:
            await write(service.Session, "a")
            with pytest.raises(DBAPIError):
                await service.Session.execute(text("SELECT 1 / 0"))
            return Reply()

        response = await service.get(framework, handler, server=server)
        self.assert_refused(service, response, 500)
        assert await service.stored() == set()
        assert all(isinstance(error, RollbackOnlyError) for error in service.raised)


@everywhere
class TestNoCommit:
    """A status that the policy does not commit: rolled back before the start. An exception: raised on."""

    @pytest.mark.parametrize("status", [400, 422, 500])
    async def test_of_a_returned_status(
        self, service: Service, framework: str, server: str, status: int
    ) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(status)

        response = await service.get(framework, handler, server=server)
        assert (response.status_code, response.text) == (status, "done")
        assert (service.out_at_start, await service.stored()) == (0, set())

    async def test_of_a_refusal(self, service: Service, framework: str, server: str) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            raise Refused(400)

        response = await service.get(framework, handler, server=server)
        assert (response.status_code, response.is_success) == (400, False)
        assert (service.out_at_start, await service.stored()) == (0, set())

    async def test_by_a_function_of_the_status(self, service: Service, framework: str, server: str) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(422)

        policy = scoped(commit=lambda status: status == 422)
        await service.get(framework, handler, policy, server)
        assert service.stored_at_start == {"a"}

    async def test_of_an_unhandled_exception(self, service: Service, framework: str, server: str) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            raise ValueError("a mistake of the handler")

        response = await service.get(framework, handler, server=server)
        assert response.status_code == 500
        assert await service.stored() == set()
        if framework == "starlette":
            assert [str(error) for error in service.raised] == ["a mistake of the handler"]


@everywhere
class TestAfterTheStart:
    """A body that streams and background work: the same scope, a new transaction."""

    async def test_a_stream_commits_at_the_end(self, service: Service, framework: str, server: str) -> None:
        out: list[int] = []

        async def pieces() -> AsyncIterator[str]:
            out.append(service.out)
            await write(service.Session, "b")
            yield "piece"
            out.append(service.out)

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(text=pieces())

        response = await service.get(framework, handler, server=server)
        assert (response.status_code, response.text) == (200, "piece")
        assert service.stored_at_start == {"a"}
        assert out == [0, 1]
        assert await service.stored() == {"a", "b"}

    async def test_a_stream_after_a_rollback(self, service: Service, framework: str, server: str) -> None:
        async def pieces() -> AsyncIterator[str]:
            await write(service.Session, "b")
            yield "piece"

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(422, pieces())

        response = await service.get(framework, handler, server=server)
        assert (response.status_code, response.text) == (422, "piece")
        assert await service.stored() == set()

    async def test_an_exception_in_mid_stream(self, service: Service, framework: str, server: str) -> None:
        """What came after the commit is rolled back, and the exception goes on."""

        async def pieces() -> AsyncIterator[str]:
            await write(service.Session, "b")
            yield "piece"
            raise ValueError("a mistake of the stream")

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(text=pieces())

        async with service.serve(framework, handler, server=server) as client:
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/")
            await service.left.wait()
        assert await service.stored() == {"a"}
        assert len(service.raised) == 1


@with_background_tasks
class TestBackgroundTask:
    """It works in the scope of its request, in a new transaction, with the fate of the response."""

    @pytest.mark.parametrize(("status", "kept"), [(200, {"a", "b"}), (422, set[str]())])
    async def test_its_work(
        self, service: Service, framework: str, server: str, status: int, kept: set[str]
    ) -> None:
        async def work() -> None:
            assert service.out == 0
            await write(service.Session, "b")

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(status, background=work)

        await service.get(framework, handler, server=server)
        assert await service.stored() == kept


@everywhere
class TestDisconnect:
    """The client goes away: rolled back, the connection back in the pool."""

    async def test_in_mid_stream(self, service: Service, framework: str, server: str) -> None:
        streaming = asyncio.Event()

        async def pieces() -> AsyncIterator[str]:
            await write(service.Session, "b")
            yield "piece"
            streaming.set()
            await asyncio.Event().wait()

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(text=pieces())

        async with service.serve(framework, handler, server=server) as client:
            await hang_up(client, streaming.wait)
            await service.left.wait()
        assert (service.out, await service.stored()) == (0, {"a"})

    async def test_before_the_start(self, service: Service, framework: str, server: str) -> None:
        """Servers tell the application, which is to stop: Quart does, and else a middleware does here."""
        working = asyncio.Event()

        async def handler() -> Reply:
            await write(service.Session, "a")
            working.set()
            await asyncio.Event().wait()
            raise AssertionError("never reached")

        cancels: Middlewares = [] if framework == "quart" else [(CancelOnDisconnect, {})]
        async with service.serve(framework, handler, [*cancels, *scoped(commit=True)], server) as client:
            await hang_up(client, working.wait)
            await service.left.wait()
        assert (service.messages, service.out, await service.stored()) == ([], 0, set())
