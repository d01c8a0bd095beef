"""Every promise of the ASGI middleware that has a meaning in aiohttp, for every way to answer there."""

import asyncio
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from protocol_database import Database
from sqlalchemy import event, func, orm, select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from aiohttp_site import WAYS, Site, hang_up, hung_up
from entries import Entry, break_the_commit, write
from scoped_async import RollbackOnlyError, current_scope, scope
from scoped_async.aiohttp import scope_middleware

every_way = pytest.mark.parametrize("way", WAYS)


@every_way
class TestSuccess:
    """200: COMMIT, then the head of the response, then its body."""

    async def test_it_is_committed_before_the_head(
        self, database: Database, caplog: pytest.LogCaptureFixture, way: str
    ) -> None:
        sent: list[int] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            current_scope().after_commit(lambda: sent.append(request.writer.output_size))
            return await WAYS[way](request, 200)

        assert await Site(handler).get() == (200, "done")
        assert sent == [0]
        assert await database.stored() == {"a"}
        assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []

    async def test_nothing_is_touched(self, database: Database, way: str) -> None:
        """A handler that leaves the database alone gets no session and no connection."""
        touched: list[object] = []
        event.listen(database.engine.sync_engine, "checkout", lambda *_: touched.append("connection"))

        class Counted(orm.Session):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                touched.append("session")

        database.Session.configure(sync_session_class=Counted)

        async def handler(request: web.Request) -> web.StreamResponse:
            return await WAYS[way](request, 200)

        assert await Site(handler).get() == (200, "done")
        assert touched == []


@every_way
class TestFailedCommit:
    """A commit that fails: no success reaches the client, and nothing of that response is sent."""

    async def assert_refused(self, database: Database, site: Site, kind: type[BaseException]) -> None:
        """Two requests, one after the other: each has a well-formed answer of aiohttp's own."""
        async with site.serve() as client:
            for _ in range(2):
                async with client.get("/") as response:
                    assert response.status == 500
                    assert "Server got itself in trouble" in await response.text()
                await site.left.wait()
        assert [isinstance(error, kind) for error in site.raised] == [True, True]
        assert "a" not in await database.stored()

    async def test_by_a_constraint(self, database: Database, way: str) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            await break_the_commit(database.Session)
            return await WAYS[way](request, 200)

        await self.assert_refused(database, Site(handler), IntegrityError)

    async def test_by_a_serialization_failure(self, database: Database, way: str) -> None:
        """Two transactions that each count and then add: PostgreSQL lets one of them commit."""

        async def count_and_write(name: str) -> None:
            await database.Session.connection(execution_options={"isolation_level": "SERIALIZABLE"})
            await database.Session.scalar(select(func.count()).select_from(Entry))
            await write(database.Session, name)

        async def handler(request: web.Request) -> web.StreamResponse:
            await count_and_write("a")
            async with scope(commit=True):
                await count_and_write("b")
            return await WAYS[way](request, 200)

        await self.assert_refused(database, Site(handler), DBAPIError)

    async def test_by_a_server_that_is_gone(self, database: Database, way: str) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            await database.kill()
            return await WAYS[way](request, 200)

        await self.assert_refused(database, Site(handler), Exception)

    async def test_that_the_server_made_a_rollback(self, database: Database, way: str) -> None:
        """PostgreSQL answers COMMIT with ROLLBACK, and no error, once a statement has failed."""

        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            with pytest.raises(DBAPIError):
                await database.Session.execute(text("SELECT 1 / 0"))
            return await WAYS[way](request, 200)

        await self.assert_refused(database, Site(handler), RollbackOnlyError)

    async def test_the_applications_own_answer(self, database: Database, way: str) -> None:
        """A middleware further out sees the error itself, and its answer is what the client gets."""

        @web.middleware
        async def conflict(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                return await handler(request)
            except IntegrityError as error:
                return web.json_response({"conflict": type(error).__name__}, status=409)

        async def handler(request: web.Request) -> web.StreamResponse:
            await break_the_commit(database.Session)
            return await WAYS[way](request, 200)

        site = Site(handler, [conflict, scope_middleware(commit=True)])
        assert await site.get() == (409, '{"conflict": "IntegrityError"}')
        assert await database.stored() == set()


@every_way
class TestNoCommit:
    """A status that the policy does not commit: rolled back before the head. An exception: raised on."""

    @pytest.mark.parametrize("status", [400, 422, 500])
    async def test_of_a_status(self, database: Database, way: str, status: int) -> None:
        sent: list[int] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            current_scope().after_rollback(lambda: sent.append(request.writer.output_size))
            return await WAYS[way](request, status)

        assert await Site(handler).get() == (status, "done")
        assert (sent, await database.stored()) == ([0], set())

    async def test_by_a_function_of_the_status(self, database: Database, way: str) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, request.query["name"])
            return await WAYS[way](request, int(request.query["status"]))

        site = Site(handler, [scope_middleware(commit=lambda status: status == 422)])
        assert await site.get(params={"name": "a", "status": "422"}) == (422, "done")
        assert await site.get(params={"name": "b", "status": "200"}) == (200, "done")
        assert await database.stored() == {"a"}

    async def test_of_an_unhandled_exception(self, database: Database, way: str) -> None:
        """Whether it comes before the answer or instead of its end."""

        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            if way not in ("returned", "raised", "streamed", "file"):
                await WAYS[way](request, 422)
            raise ValueError("a mistake of the handler")

        site = Site(handler)
        async with site.serve() as client:
            try:
                async with client.get("/") as response:
                    assert response.status in (422, 500)
                    await response.text()
            except aiohttp.ClientPayloadError:
                assert way.startswith(("prepared", "compressed"))
            await site.left.wait()
        assert [str(error) for error in site.raised] == ["a mistake of the handler"]
        assert await database.stored() == set()


class TestDisconnect:
    """The client goes away: rolled back, the connection back in the pool."""

    @every_way
    @pytest.mark.parametrize("cancelled", [True, False])
    async def test_before_the_head(self, database: Database, way: str, cancelled: bool) -> None:
        """Whether aiohttp cancels the handler, or lets it go on and answer into the void."""
        working = asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            current_scope().after_commit(committed.append, 1)
            working.set()
            await hung_up(request)
            return await WAYS[way](request, 200)

        committed: list[int] = []
        site = Site(handler, handler_cancellation=cancelled)
        async with site.serve() as client:
            await hang_up(client, working.wait)
            await site.left.wait()
        assert (database.out, committed, await database.stored()) == (0, [], set())

    @pytest.mark.parametrize("cancelled", [True, False])
    @pytest.mark.parametrize("way", ["prepared", "streamed"])
    async def test_in_mid_stream(self, database: Database, way: str, cancelled: bool) -> None:
        streaming = asyncio.Event()

        async def pieces(request: web.Request) -> Any:
            await write(database.Session, "b")
            yield b"piece"
            streaming.set()
            await hung_up(request)
            yield b"another"

        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            if way == "streamed":
                return web.Response(body=pieces(request))
            response = web.StreamResponse()
            await response.prepare(request)
            async for piece in pieces(request):
                await response.write(piece)
            return response

        site = Site(handler, handler_cancellation=cancelled)
        async with site.serve() as client:
            await hang_up(client, streaming.wait)
            await site.left.wait()
        assert (database.out, await database.stored()) == (0, {"a"})
