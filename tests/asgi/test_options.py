"""The options of the middleware: what it commits, what a scope is called, WebSockets, and what it refuses."""

import asyncio
import gc
import sys
import weakref
from collections import Counter
from types import FrameType
from typing import Any

import pytest
import starlette.applications
import websockets
from frameworks import Reply, scoped
from service import Service
from sqlalchemy.util import await_only
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from entries import write
from scoped_async import NoScopeError, RollbackOnlyError, Scope, current_scope, scope
from scoped_async.asgi import Message, Receive, ScopeMiddleware, Send
from servers import SERVERS


async def application(asgi: Any, receive: Receive, send: Send) -> None: ...


class TestRefused:
    @pytest.mark.parametrize("option", ["propagation", "close", "scope"])
    def test_what_is_no_option(self, option: str) -> None:
        """A request's scope is always a new one, so ``propagation`` has no meaning here."""
        options: dict[str, Any] = {option: "join"}
        with pytest.raises(TypeError, match=option):
            ScopeMiddleware(application, **options)

    @pytest.mark.parametrize("commit", [True, lambda status: status < 500])
    def test_to_commit_what_is_readonly(self, commit: Any) -> None:
        with pytest.raises(ValueError, match="readonly"):
            ScopeMiddleware(application, commit=commit, readonly=True)

    def test_a_negative_time(self) -> None:
        with pytest.raises(ValueError, match="close_timeout"):
            ScopeMiddleware(application, close_timeout=-1)


class TestCommit:
    async def test_never_by_default(self, service: Service) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply()

        assert (await service.get("starlette", handler, scoped())).status_code == 200
        assert (service.out_at_start, await service.stored()) == (0, set())

    async def test_by_the_handler_itself(self, service: Service) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            await service.Session.commit()
            await write(service.Session, "b")
            return Reply()

        await service.get("starlette", handler, scoped())
        assert await service.stored() == {"a"}


class TestRollbackOnly:
    async def test_set_by_hand(self, service: Service) -> None:
        """The response goes on as it is; what came before it, and what comes after it, is rolled back."""

        async def work() -> None:
            await write(service.Session, "b")

        async def handler() -> Reply:
            await write(service.Session, "a")
            current_scope().rollback_only = True
            return Reply(background=work)

        response = await service.get("starlette", handler)
        assert (response.status_code, service.raised) == (200, [])
        assert (service.out_at_start, await service.stored()) == (0, set())

    async def test_set_by_hand_after_the_start(self, service: Service) -> None:
        async def work() -> None:
            await write(service.Session, "b")
            current_scope().rollback_only = True

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(background=work)

        await service.get("starlette", handler)
        assert (service.raised, await service.stored()) == ([], {"a"})

    async def test_by_a_joined_block_that_failed(self, service: Service) -> None:
        """Also when its exception was swallowed on the way: no success is told."""

        async def handler() -> Reply:
            await write(service.Session, "a")
            with pytest.raises(ValueError, match="a mistake"):
                async with scope(propagation="join"):
                    raise ValueError("a mistake")
            return Reply()

        assert (await service.get("starlette", handler)).status_code == 500
        assert await service.stored() == set()
        with pytest.raises(RollbackOnlyError) as refusal:
            raise service.raised[0]
        assert isinstance(refusal.value.__cause__, ValueError)


class TestCallbacks:
    async def test_when_they_run(self, service: Service) -> None:
        """With the outcome that is known before the start; those of what comes after it, at the end."""
        ran: list[str] = []

        async def work() -> None:
            ran.append("background task")
            await write(service.Session, "b")
            current_scope().after_commit(ran.append, "commit at the end")

        async def handler() -> Reply:
            await write(service.Session, "a")
            current_scope().after_commit(ran.append, "commit before the start")
            current_scope().after_rollback(ran.append, "rollback")
            return Reply(background=work)

        await service.get("starlette", handler)
        assert ran == ["commit before the start", "background task", "commit at the end"]

    async def test_without_any_session(self, service: Service) -> None:
        ran: list[str] = []

        async def handler() -> Reply:
            current_scope().after_commit(ran.append, "commit")
            return Reply()

        await service.get("starlette", handler)
        assert ran == ["commit"]


class TestName:
    async def test_by_default(self, service: Service) -> None:
        async def handler() -> Reply:
            return Reply(text=current_scope().name)

        assert (await service.get("starlette", handler)).text == "GET /"

    async def test_built_when_somebody_asks(self, service: Service) -> None:
        asked: list[str] = []

        def name(asgi: Any) -> str:
            asked.append(asgi["path"])
            return f"the handler of {asgi['path']}"

        async def silent() -> Reply:
            await write(service.Session, "a")
            return Reply()

        async def handler() -> Reply:
            return Reply(text=current_scope().name)

        await service.get("starlette", silent, scoped(name=name))
        assert asked == []
        assert (await service.get("starlette", handler, scoped(name=name))).text == "the handler of /"

    async def test_a_dead_scope_keeps_no_request_alive(self) -> None:
        class Request(dict[str, Any]):
            """An ASGI scope that may be watched."""

        scopes: list[Scope] = []

        async def app(asgi: Any, receive: Receive, send: Send) -> None:
            scopes.append(current_scope())

        async def never(*_: Any) -> Message:
            raise AssertionError

        request = Request(type="http", method="GET", path="/")
        kept = weakref.ref(request)
        await ScopeMiddleware(app)(request, never, never)  # type: ignore[arg-type]
        del request
        gc.collect()
        assert (kept(), scopes[0].name) == (None, "GET /")


class TestWebSocket:
    """No scope, because a socket lives long: each message opens its own. When asked for: one for it all."""

    async def talk(self, service: Service, endpoint: Any, *messages: str, **options: Any) -> list[str]:
        app = starlette.applications.Starlette(routes=[WebSocketRoute("/talk", endpoint)])
        app.add_middleware(ScopeMiddleware, **options)
        async with SERVERS["uvicorn"](service.watched(app)) as url:
            async with websockets.connect(url.replace("http", "ws") + "/talk") as socket:
                answers: list[str] = []
                for message in messages:
                    await socket.send(message)
                    answers.append(str(await socket.recv()))
            await service.left.wait()
        return answers

    async def test_none_by_default(self, service: Service) -> None:
        async def endpoint(socket: WebSocket) -> None:
            await socket.accept()
            with pytest.raises(NoScopeError):
                service.Session()
            message = await socket.receive_text()
            async with scope(commit=True):
                await write(service.Session, message)
            await socket.send_text("stored")

        assert await self.talk(service, endpoint, "a", commit=True) == ["stored"]
        assert await service.stored() == {"a"}

    @pytest.mark.parametrize(
        ("commit", "kept"),
        [(True, {"a", "b"}), (lambda status: status == 101, {"a", "b"}), (False, set[str]())],
    )
    async def test_one_for_the_connection(self, service: Service, commit: Any, kept: set[str]) -> None:
        async def endpoint(socket: WebSocket) -> None:
            await socket.accept()
            for _ in range(2):
                await write(service.Session, await socket.receive_text())
                await socket.send_text(current_scope().name)

        answers = await self.talk(service, endpoint, "a", "b", commit=commit, websocket=True)
        assert answers == ["WEBSOCKET /talk"] * 2
        assert await service.stored() == kept

    async def test_a_client_that_goes_away(self, service: Service) -> None:
        async def endpoint(socket: WebSocket) -> None:
            await socket.accept()
            await write(service.Session, await socket.receive_text())
            await socket.send_text("stored")
            await socket.receive_text()

        await self.talk(service, endpoint, "a", commit=True, websocket=True)
        assert (service.out, await service.stored()) == (0, set())
        assert [type(error) for error in service.raised] in ([], [WebSocketDisconnect])


async def test_lifespan_has_no_scope(service: Service) -> None:
    seen: list[object] = []

    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        seen.append((asgi["type"], current_scope(None)))
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async with SERVERS["uvicorn"](ScopeMiddleware(app)):
        pass
    assert seen == [("lifespan", None)]


async def test_the_commit_before_the_start_is_bounded(service: Service) -> None:
    """By ``close_timeout``, as at a scope's exit: an operation of another task that does not end in time."""
    never = asyncio.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def hold() -> None:
        await service.Session.run_sync(lambda session: await_only(never.wait()))

    async def handler() -> Reply:
        tasks.append(asyncio.create_task(hold()))
        await asyncio.sleep(0)
        return Reply()

    assert (
        await service.get("starlette", handler, scoped(commit=True, close_timeout=0.1))
    ).status_code == 500
    assert "is in run_sync()" in str(service.raised[0])
    tasks[0].cancel()
    await asyncio.wait(tasks)


async def test_what_a_request_costs_that_touches_nothing() -> None:
    """The calls of Python functions that it adds."""
    calls: list[str] = []

    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body"})

    async def send(message: Message) -> None: ...

    async def receive() -> Message:
        raise AssertionError("never called")

    def count(frame: FrameType, what: str, argument: object) -> None:
        if what == "call":
            calls.append(frame.f_code.co_name)

    scoped_app = ScopeMiddleware(app, commit=True)
    asgi = {"type": "http", "method": "GET", "path": "/"}
    sys.setprofile(count)
    try:
        await scoped_app(asgi, receive, send)
    finally:
        sys.setprofile(None)
    own = Counter(calls) - Counter({"app": 1, "send": 2})
    scope_itself = {"new_request": 1, "__aenter__": 1, "__aexit__": 1, "__del__": 1}
    assert own == Counter({"__call__": 1, "respond": 2, "_below_400": 1, **scope_itself})
