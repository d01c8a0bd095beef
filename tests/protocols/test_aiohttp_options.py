"""The options of the middleware, and what else a request's scope does in aiohttp."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from protocol_database import Database
from sqlalchemy.util import await_only

from aiohttp_site import Site, hang_up
from entries import break_the_commit, write
from scoped_async import (
    RollbackOnlyError,
    Scope,
    ScopeClosedError,
    ScopeError,
    current_scope,
    scope,
)
from scoped_async.aiohttp import scope_middleware


async def answer(request: web.Request) -> web.StreamResponse:
    return web.Response(text="done")


class TestRefused:
    @pytest.mark.parametrize("option", ["propagation", "close", "scope"])
    def test_what_is_no_option(self, option: str) -> None:
        """A request's scope is always a new one, so ``propagation`` has no meaning here."""
        options: dict[str, Any] = {option: "join"}
        with pytest.raises(TypeError, match=option):
            scope_middleware(**options)

    @pytest.mark.parametrize("commit", [True, lambda status: status < 500])
    def test_to_commit_what_is_readonly(self, commit: Any) -> None:
        with pytest.raises(ValueError, match="readonly"):
            scope_middleware(commit=commit, readonly=True)

    @pytest.mark.parametrize("option", ["commit", "name"])
    def test_what_cannot_be_asked(self, option: str) -> None:
        with pytest.raises(TypeError, match=f"{option} is .*function that is not async"):
            scope_middleware(**{option: answer})  # type: ignore[arg-type]

    def test_a_negative_time(self) -> None:
        with pytest.raises(ValueError, match="close_timeout"):
            scope_middleware(close_timeout=-1)


class TestOutcome:
    async def test_never_committed_by_default(self, database: Database) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            return await answer(request)

        assert await Site(handler, [scope_middleware()]).get() == (200, "done")
        assert await database.stored() == set()

    async def test_committed_by_the_handler_itself(self, database: Database) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            await database.Session.commit()
            await write(database.Session, "b")
            return await answer(request)

        await Site(handler, [scope_middleware()]).get()
        assert await database.stored() == {"a"}

    async def test_rollback_only_set_by_hand(self, database: Database) -> None:
        """The response goes on as it is, and all is rolled back."""

        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            current_scope().rollback_only = True
            return await answer(request)

        assert await Site(handler).get() == (200, "done")
        assert await database.stored() == set()

    async def test_a_joined_block_that_failed(self, database: Database) -> None:
        """Also when its exception was swallowed on the way: no success is told."""

        async def handler(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            with pytest.raises(ValueError, match="a mistake"):
                async with scope(propagation="join"):
                    raise ValueError("a mistake")
            return await answer(request)

        site = Site(handler)
        assert (await site.get())[0] == 500
        with pytest.raises(RollbackOnlyError):
            raise site.raised[0]
        assert await database.stored() == set()

    async def test_a_head_within_a_block(self, database: Database) -> None:
        """What becomes of the block is not known yet, so the client is not told of success."""

        async def handler(request: web.Request) -> web.StreamResponse:
            async with scope(propagation="nested"):
                await write(database.Session, "a")
                response = web.StreamResponse()
                await response.prepare(request)
            return response

        site = Site(handler)
        assert (await site.get())[0] == 500
        with pytest.raises(ScopeError, match="Leave the block before the answer is sent"):
            raise site.raised[0]
        assert await database.stored() == set()

    async def test_callbacks_without_any_session(self) -> None:
        ran: list[str] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            current_scope().after_commit(ran.append, "commit")
            return await answer(request)

        await Site(handler).get()
        assert ran == ["commit"]

    async def test_the_commit_before_the_head_is_bounded(self, database: Database) -> None:
        """By ``close_timeout``: an operation of another task that does not end in time."""
        tasks: list[asyncio.Task[Any]] = []

        async def hold() -> None:
            never = asyncio.Event()
            await database.Session.run_sync(lambda session: await_only(never.wait()))

        async def handler(request: web.Request) -> web.StreamResponse:
            tasks.append(asyncio.create_task(hold()))
            await asyncio.sleep(0)
            return await answer(request)

        site = Site(handler, [scope_middleware(commit=True, close_timeout=0.1)])
        assert (await site.get())[0] == 500
        assert "is in run_sync()" in str(site.raised[0])
        tasks[0].cancel()
        await asyncio.wait(tasks)


class TestName:
    async def test_by_default(self) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return web.Response(text=current_scope().name)

        assert (await Site(handler).get())[1] == "GET /"

    async def test_built_when_somebody_asks(self, database: Database) -> None:
        asked: list[str] = []

        def name(request: web.Request) -> str:
            asked.append(request.path)
            return f"the handler of {request.path}"

        async def silent(request: web.Request) -> web.StreamResponse:
            await write(database.Session, "a")
            return await answer(request)

        async def handler(request: web.Request) -> web.StreamResponse:
            return web.Response(text=current_scope().name)

        await Site(silent, [scope_middleware(name=name)]).get()
        assert asked == []
        assert (await Site(handler, [scope_middleware(name=name)]).get())[1] == "the handler of /"

    @pytest.mark.parametrize("failed", [False, True])
    async def test_a_dead_scope_keeps_no_request_alive(
        self, database: Database, caplog: pytest.LogCaptureFixture, failed: bool
    ) -> None:
        """Nor does it keep the failure of its commit, whose traceback would."""
        caplog.set_level(logging.CRITICAL, "aiohttp.server")  # pytest keeps what is logged
        scopes: list[Scope] = []
        requests: list[weakref.ref[web.Request]] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            scopes.append(current_scope())
            requests.append(weakref.ref(request))
            if failed:
                await break_the_commit(database.Session)
            return await answer(request)

        site = Site(handler)
        assert (await site.get())[0] == (500 if failed else 200)
        site.raised.clear()
        gc.collect()
        assert (requests[0](), scopes[0].name) == (None, "GET /")

    async def test_a_request_is_freed_without_the_garbage_collector(self) -> None:
        """As it is without the middleware: nothing of a scope hangs on it in a circle."""
        requests: list[weakref.ref[web.Request]] = []

        async def handler(request: web.Request) -> web.StreamResponse:
            requests.append(weakref.ref(request))
            return await answer(request)

        gc.disable()
        try:
            await Site(handler).get()
            assert requests[0]() is None
        finally:
            gc.enable()


class TestTask:
    """A task of a request that has ended has no scope any more; it opens its own."""

    async def late(self, work: Callable[[], Awaitable[None]]) -> None:
        request_has_ended = asyncio.Event()
        tasks: list[asyncio.Task[None]] = []

        async def after_the_request() -> None:
            await request_has_ended.wait()
            await work()

        async def handler(request: web.Request) -> web.StreamResponse:
            tasks.append(asyncio.create_task(after_the_request()))
            return await answer(request)

        await Site(handler).get()
        request_has_ended.set()
        await tasks[0]

    async def test_that_outlives_the_request(self, database: Database) -> None:
        with pytest.raises(ScopeClosedError, match=r"the scope GET / is closed.*Open a scope of your own"):
            await self.late(lambda: write(database.Session, "late"))

    async def test_with_a_scope_of_its_own(self, database: Database) -> None:
        @scope(commit=True)
        async def work() -> None:
            await write(database.Session, "late")

        await self.late(work)
        assert await database.stored() == {"late"}


async def test_what_is_not_found_has_no_session(database: Database) -> None:
    """aiohttp runs its middlewares for that, too; and a client that hangs up on it does no harm."""
    site = Site(answer)
    async with site.serve() as client:
        async with client.get("/nowhere") as response:
            assert response.status == 404
        await hang_up(client, site.left.wait)
    assert database.out == 0
