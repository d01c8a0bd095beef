"""The head of a response: what comes before it, for each way to send one."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from protocol_database import Database
from sqlalchemy.exc import IntegrityError

from aiohttp_site import FILE, Site, client_of
from entries import break_the_commit, write
from scoped_async import ScopeError
from scoped_async.aiohttp import scope_middleware


class TestFile:
    """The status of a file is known when it is opened, and that decides."""

    @pytest.mark.parametrize(
        ("name", "headers", "status", "kept"),
        [
            ("done.txt", {"Range": "bytes=1-2"}, 206, {"a"}),
            ("done.txt", {"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304, {"a"}),
            ("done.txt", {"Range": "bytes=9-"}, 416, set[str]()),
            ("missing.txt", {}, 404, set[str]()),
        ],
    )
    async def test_its_status(
        self, database: Database, name: str, headers: dict[str, str], status: int, kept: set[str]
    ) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            return web.FileResponse(FILE.with_name(name))

        assert (await Site(handler).get(headers=headers))[0] == status
        assert await database.stored() == kept

    async def test_the_connection_goes_on(self, database: Database, tmp_path: Path) -> None:
        """Whether a file was sent, or refused by its commit."""
        answers: list[Any] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            connections.add(request.transport)
            if "broken" in request.query:
                await break_the_commit(database.Session)
            return web.FileResponse(FILE)

        @web.middleware
        async def conflict(request: web.Request, handler: Any) -> web.StreamResponse:
            try:
                return await handler(request)  # type: ignore[no-any-return]
            except IntegrityError:
                return web.Response(status=409, text="conflict")

        connections: set[object] = set()
        async with Site(handler, [conflict, scope_middleware(commit=True)]).serve() as client:
            for query in ("", "?broken", ""):
                async with client.get(f"/{query}") as response:
                    answers.append((response.status, await response.text()))
        assert answers == [(200, "done"), (409, "conflict"), (200, "done")]
        assert len(connections) == 1


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_responses_without_a_body(database: Database, method: str, status: int) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await write(database.Session, "a")
        return web.Response(status=status)

    async with Site(handler).serve() as client, client.request(method, "/") as response:
        assert (response.status, await response.read()) == (status, b"")
        assert await database.stored() == {"a"}


async def test_a_redirect_that_is_raised_is_a_success(database: Database) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        await write(database.Session, "a")
        raise web.HTTPFound("/elsewhere")

    assert (await Site(handler).get())[0] == 302
    assert await database.stored() == {"a"}


async def test_a_second_head(database: Database) -> None:
    """aiohttp sends it without a complaint; the work that came before it has the fate of the first."""

    async def handler(request: web.Request) -> web.StreamResponse:
        await write(database.Session, "a")
        await web.StreamResponse(status=422).prepare(request)
        await write(database.Session, "b")
        response = web.StreamResponse()
        await response.prepare(request)
        return response

    site = Site(handler, handler_cancellation=False)
    async with site.serve() as client, client.get("/") as response:
        await site.left.wait()
        assert response.status == 422
    assert (site.raised, await database.stored()) == ([], set())


class TestFailedCommit:
    """A handler that sends the head by hand may make of the failure what it likes, but a success."""

    async def test_it_may_answer_anew(self, database: Database) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            await break_the_commit(database.Session)
            response = web.StreamResponse()
            with pytest.raises(IntegrityError):
                await response.prepare(request)
            with pytest.raises(RuntimeError, match="prepare"):
                await response.write(b"done")
            return web.Response(status=503, text="later")

        site = Site(handler)
        assert await site.get() == (503, "later")
        assert (site.raised, await database.stored()) == ([], set())

    @pytest.mark.parametrize("again", ["the same", "another"])
    async def test_it_may_not_tell_of_success(self, database: Database, again: str) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            await break_the_commit(database.Session)
            response = web.StreamResponse()
            for _ in range(2):
                with pytest.raises(IntegrityError) as refusal:
                    await response.prepare(request)
                errors.append(refusal.value)
            return response if again == "the same" else web.Response(text="done")

        errors: list[BaseException] = []
        site = Site(handler)
        status, text = await site.get()
        assert (status, "done" in text) == (500, False)
        assert {*errors, *site.raised} == {errors[0]}
        assert await database.stored() == set()


async def test_no_response_is_a_complaint_of_aiohttp(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """The same as without the middleware, and nothing is committed."""

    async def handler(request: web.Request) -> Any:
        if middlewares:
            await write(database.Session, "a")

    complaints: list[object] = []
    for middlewares in ([], [scope_middleware(commit=True)]):
        caplog.clear()
        answer = await Site(handler, middlewares).get()
        complaints.append((answer, [record.message for record in caplog.records]))
    assert complaints[0] == complaints[1]
    assert "Missing return statement" in str(complaints[0])
    assert await database.stored() == set()


async def test_a_response_prepared_with_a_copy_of_the_request(database: Database) -> None:
    """The commit could not come before its head, so there is none, and the response is not whole."""

    @web.middleware
    async def clone(request: web.Request, handler: Any) -> web.StreamResponse:
        return await handler(request.clone())  # type: ignore[no-any-return]

    async def handler(request: web.Request) -> web.StreamResponse:
        await write(database.Session, "a")
        response = web.StreamResponse()
        await response.prepare(request)
        return response

    site = Site(handler, [scope_middleware(commit=True), clone])
    with pytest.raises(aiohttp.ClientPayloadError):
        await site.get()
    with pytest.raises(ScopeError, match="copy of the request"):
        raise site.raised[0]
    assert await database.stored() == set()


async def test_what_other_middlewares_and_signals_do(database: Database) -> None:
    """Signals come before the commit, with the scope; a middleware further out still sets headers."""

    @web.middleware
    async def header(request: web.Request, handler: Any) -> web.StreamResponse:
        response: web.StreamResponse = await handler(request)
        response.headers["X-Further-Out"] = "yes"
        return response

    async def signal(request: web.Request, response: web.StreamResponse) -> None:
        if request.path == "/prepared":
            await write(database.Session, "by the signal")

    async def returned(request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def prepared(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert await database.stored() == {"by the signal"}
        return response

    app = web.Application(middlewares=[header, scope_middleware(commit=True)])
    app.on_response_prepare.append(signal)
    app.router.add_get("/returned", returned)
    app.router.add_get("/prepared", prepared)
    async with client_of(app) as client:
        async with client.get("/returned") as response:
            assert response.headers["X-Further-Out"] == "yes"
        async with client.get("/prepared") as response:
            assert response.status == 200


async def test_an_application_within_an_application(database: Database) -> None:
    """Each middleware has a scope of its own, and settles it before the head."""

    @web.middleware
    async def outer_work(request: web.Request, handler: Any) -> web.StreamResponse:
        await write(database.Session, "outer")
        response: web.StreamResponse = await handler(request)
        return web.FileResponse(FILE) if "file" in request.query else response

    async def handler(request: web.Request) -> web.StreamResponse:
        await write(database.Session, "inner")
        response = web.StreamResponse() if "prepared" in request.query else web.Response()
        if "prepared" in request.query:
            await response.prepare(request)
            assert await database.stored() == {"outer", "inner"}
        return response

    inner = web.Application(middlewares=[scope_middleware(commit=True)])
    inner.router.add_get("/", handler)
    app = web.Application(middlewares=[scope_middleware(commit=True), outer_work])
    app.add_subapp("/inner", inner)
    async with client_of(app) as client:
        for query in ("prepared", "returned", "file"):
            async with client.get(f"/inner/?{query}") as response:
                assert response.status == 200
    assert await database.stored() == {"outer", "inner"}
