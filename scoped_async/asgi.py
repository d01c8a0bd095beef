"""ScopeMiddleware: a scope for each request, committed before the client hears of success."""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ._answer import RequestScope, new_request
from ._frame import UNUSED
from ._policy import request_options

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})
_BODIES = frozenset(
    f"{kind}.{part}"
    for kind in ("http.response", "websocket.http.response")
    for part in ("body", "pathsend", "zerocopysend")
)
_ENDS = _BODIES | {"websocket.accept"}
"""What is not done when ``send`` raises."""
_SWITCHING_PROTOCOLS = 101
_TOO_LATE = ("Caught handled exception, but", "Exception caught after response started")
"""What Starlette and Litestar raise from an error that they would have answered before the start."""


class ScopeMiddleware:
    """A scope for each HTTP request; its work is committed, or rolled back, before the client is told.

    ``app``: the ASGI application. ``commit``: ``False``, never; ``True``, when the status is below 400; or a
    function that is asked with the status. ``name``: a function that makes the scope's name of the ASGI
    scope, called when somebody asks for it; by default ``"GET /path"``. ``websocket``: whether a WebSocket
    connection has a scope too, one for all its messages, committed at its end if it was accepted and
    ``commit`` says so of status 101; by default it has none, and each message is to open its own.
    ``readonly``, ``close_timeout``: as in `scope()`. Every request has a new scope, also one made within
    another; ``lifespan`` passes through. Put it inside of the other middlewares (in Starlette: add it first):
    the headers that they add reach what it answers, too, and those that read ahead, as BaseHTTPMiddleware
    does, do not begin the body during the commit, where what it sets on objects can be lost.

    Before ``http.response.start`` goes on, the work so far is committed, or rolled back when ``commit`` says
    no, ``rollback_only`` was set or ``http.disconnect`` was received; ``close_timeout`` bounds that. What
    streams the body, and background tasks, go on in the same scope in a new transaction, which is committed
    when the application has returned, if the start was committed, the response was sent whole, and the
    client has not hung up on it; otherwise it is rolled back. An exception rolls back and goes on. A stream
    of rows that was opened before the start goes on, too; on PostgreSQL only when there is nothing to commit
    in its transaction, and else it is a `ScopeError`.

    A commit that fails is raised from ``send`` to the application, and nothing of that response goes on. If
    the application then answers with a status that does not commit, that goes on. If not, under Starlette
    and FastAPI the registered exception handler answers; without one the error is raised to the server, or
    what the application has raised in its place. So is the `ScopeError` of a response that starts while a
    block is open whose outcome should come first.

    Raises `TypeError` for an option that is none or cannot be asked, `ValueError` for ``readonly`` with
    ``commit``.

    .. versionadded:: 0.1
    """

    def __init__(
        self,
        app: Application,
        *,
        commit: bool | Callable[[int], bool] = False,
        name: Callable[[MutableMapping[str, Any]], str] | None = None,
        websocket: bool = False,
        readonly: bool = False,
        close_timeout: float | None = 10.0,
    ) -> None:
        self._options = request_options(commit, name, readonly=readonly, close_timeout=close_timeout)
        self.app = app
        self._commits = commit if callable(commit) else _below_400 if commit else _never
        self._name = name
        self._types = {"http", "websocket"} if websocket else {"http"}

    async def __call__(self, asgi: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = asgi["type"]
        if kind not in self._types:
            await self.app(asgi, receive, send)
            return
        if self._name is None:
            # No more than the two strings: a scope that has ended must not keep the request alive.
            scope = new_request(self._options, _CODE, (_NAME, asgi.get("method", "WEBSOCKET"), asgi["path"]))
        else:
            scope = new_request(self._options, _CODE, (self._name, asgi))
        exchange = _Exchange()  # without an __init__, which costs every request more than what it does
        exchange.scope = scope
        exchange.commits = self._commits
        exchange.receive = receive
        exchange.send = send
        exchange.started = exchange.complete = exchange.gone = exchange.body_is_read = False
        listen, respond = exchange.listen, exchange.respond
        try:
            async with scope:
                if kind == "websocket":
                    scope.commits = self._commits(_SWITCHING_PROTOCOLS)
                try:
                    await self.app(asgi, listen, respond)
                except Exception as error:
                    if exchange.started or (failure := scope.failure) is None:
                        raise
                    scope.failure = _made_of(failure, error)
                    if scope.failure is error is not failure:
                        raise
                if not exchange.started and (failure := scope.failure) is not None:
                    scope.failure = None
                    await _handle(failure, asgi, listen, respond, body_is_read=exchange.body_is_read)
                whole = exchange.complete and not exchange.gone
                if whole and scope.unit is not UNUSED and scope.is_unsettled:
                    await scope.finish()
        finally:
            scope.failure = None  # with its traceback it would keep the request alive


class _Exchange:
    """What the application is given to receive and to send by, and what went through.

    Closures with as many variables would cost every request more.
    """

    __slots__ = ("body_is_read", "commits", "complete", "gone", "receive", "scope", "send", "started")

    scope: RequestScope
    commits: Callable[[int], bool]
    receive: Receive
    send: Send
    started: bool
    complete: bool
    gone: bool
    body_is_read: bool

    async def listen(self) -> Message:
        message = await self.receive()
        kind = message["type"]
        if kind == "http.request":
            self.body_is_read = not message.get("more_body")
        elif kind == "http.disconnect" and not self.complete:
            self.gone = True  # an application may end a response that it has cut short as if it were whole
        return message

    async def respond(self, message: Message) -> None:
        kind = message["type"]
        if kind in _BODIES:
            if not self.started and (failure := self.scope.failure) is not None:
                raise failure
            self.complete = not message.get("more_body")
        elif kind in _STARTS and not self.started:
            scope, status = self.scope, message["status"]
            scope.commits = not self.gone and self.commits(status)
            if scope.unit is not UNUSED and scope.is_unsettled:
                await scope.settle(success=not self.gone and status < 400)
            self.started = True
        elif kind == "websocket.accept":
            self.complete = True
        try:
            await self.send(message)
        except BaseException:
            self.complete = self.complete and kind not in _ENDS
            raise


def _made_of(failure: Exception, error: Exception) -> Exception:
    """What the application has made of ``failure``: what it raised while that was on its way, or itself."""
    made, current = error, error
    while current is not failure:
        cause, context = current.__cause__, current.__context__
        if isinstance(cause, Exception) and str(current).startswith(_TOO_LATE):
            made = cause
        if not isinstance(context, Exception):
            return failure
        current = context
    return made


async def _handle(
    failure: Exception, asgi: MutableMapping[str, Any], receive: Receive, send: Send, *, body_is_read: bool
) -> None:
    """Let the handler answer that Starlette has registered for ``failure``; raise it when there is none.

    Starlette itself does not call it: for all it knows the response has started.
    """
    handlers = _handlers_of(asgi)
    if handlers is None:
        raise failure

    async def fail(*_: object) -> None:
        raise failure

    async def listen() -> Message:
        nonlocal body_is_read
        if body_is_read:  # else a handler that asks for it would wait until the client is gone
            body_is_read = False
            return {"type": "http.request", "body": b"", "more_body": False}
        return await receive()

    middleware = sys.modules["starlette.middleware.exceptions"].ExceptionMiddleware
    # Twice, as in Starlette: around the endpoint and around the router, for what a handler raises.
    await middleware(middleware(fail, handlers), handlers)(asgi, listen, send)


def _handlers_of(asgi: MutableMapping[str, Any]) -> dict[Any, Any] | None:
    """Starlette's exception handlers by class or status, if it is Starlette that has been asked."""
    if "starlette.exception_handlers" in asgi:
        by_class, by_status = asgi["starlette.exception_handlers"]
        return {**by_class, **by_status}
    # A middleware further in has passed on a copy of the ASGI scope, where they stand.
    module, app = sys.modules.get("starlette.applications"), asgi.get("app")
    if app is None or module is None or not isinstance(app, module.Starlette):
        return None
    return {key: handler for key, handler in app.exception_handlers.items() if key not in (500, Exception)}


def _below_400(status: int) -> bool:
    return status < 400


def _never(status: int) -> bool:
    return False


_NAME = "{} {}".format
_CODE = ScopeMiddleware.__call__.__code__
