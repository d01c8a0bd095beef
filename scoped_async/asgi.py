"""ScopeMiddleware: a scope for each request, committed before the client hears of success."""

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from ._answer import new_request
from ._frame import UNUSED
from ._propagation import checked_options

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
_SWITCHING_PROTOCOLS = 101


class ScopeMiddleware:
    """A scope for each HTTP request; its work is committed, or rolled back, before the client is told.

    ``app``: the ASGI application. ``commit``: ``False``, never; ``True``, when the status is below 400; or a
    function that is asked with the status. ``name``: a function that makes the scope's name of the ASGI
    scope, called when somebody asks for it; by default ``"GET /path"``. ``websocket``: whether a WebSocket
    connection has a scope too, one for all its messages, committed at its end if ``commit`` says so of
    status 101; by default it has none, and each message is to open its own. ``readonly``,
    ``close_timeout``: as in `scope()`. Every request has a new scope, also one made within another;
    ``lifespan`` passes through. Put it inside of what adds headers (in Starlette: add it first), so that
    these reach what it answers, too.

    Before ``http.response.start`` goes on, the work so far is committed, or rolled back when ``commit`` says
    no or ``rollback_only`` was set; ``close_timeout`` bounds that. What streams the body, and background
    tasks, go on in the same scope in a new transaction, which is committed when the application has
    returned, if the start was committed, the response was sent whole, and the client has not hung up on it;
    otherwise it is rolled back. An exception rolls back and goes on.

    A commit that fails is raised from ``send`` to the application, and nothing of that response goes on. If
    the application then answers with a status that does not commit, that goes on. If not, under Starlette
    and FastAPI the registered exception handler answers; without one the error is raised to the server. So
    is the `ScopeError` of a response that starts while a block is open whose outcome should come first.

    Raises `TypeError` for an option that is none, `ValueError` for ``readonly`` with ``commit``.

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
        options = checked_options(commit=commit is not False, readonly=readonly, close_timeout=close_timeout)
        self.app = app
        self._commits = commit if callable(commit) else _below_400 if commit else _never
        self._name = name
        self._types = {"http", "websocket"} if websocket else {"http"}
        self._options = options._replace(commit=False)  # the outcome is asked for before the answer

    async def __call__(self, asgi: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if asgi["type"] not in self._types:
            await self.app(asgi, receive, send)
            return
        if self._name is None:
            # No more than the two strings: a scope that has ended must not keep the request alive.
            scope = new_request(self._options, _CODE, (_NAME, asgi.get("method", "WEBSOCKET"), asgi["path"]))
        else:
            scope = new_request(self._options, _CODE, (self._name, asgi))
        started = complete = gone = False

        async def listen() -> Message:
            nonlocal gone
            message = await receive()
            if message["type"] == "http.disconnect" and not complete:
                gone = True  # an application may end a response that it has cut short as if it were whole
            return message

        async def respond(message: Message) -> None:
            nonlocal started, complete
            kind = message["type"]
            if kind in _BODIES:
                if scope.failure is not None and not started:
                    raise scope.failure
                complete = not message.get("more_body")
            elif kind in _STARTS and not started:
                status = message["status"]
                scope.commits = self._commits(status)
                if scope.unit is not UNUSED and scope.is_unsettled:
                    await scope.settle(success=status < 400)
                started = True
            await send(message)

        try:
            async with scope:
                if asgi["type"] == "websocket":
                    complete, scope.commits = True, self._commits(_SWITCHING_PROTOCOLS)
                try:
                    await self.app(asgi, listen, respond)
                except Exception:
                    if started or scope.failure is None:
                        raise
                if not started and (failure := scope.failure) is not None:
                    scope.failure = None
                    await _handle(failure, asgi, listen, respond)
                if complete and not gone and scope.unit is not UNUSED and scope.is_unsettled:
                    await scope.finish()
        finally:
            scope.failure = None  # with its traceback it would keep the request alive


async def _handle(failure: Exception, asgi: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
    """Let the handler answer that Starlette has registered for ``failure``; raise it when there is none.

    Starlette itself does not call it: for all it knows the response has started.
    """
    handlers = asgi.get("starlette.exception_handlers")
    module = sys.modules.get("starlette.middleware.exceptions")
    if handlers is None or module is None:
        raise failure
    by_class, by_status = handlers

    async def fail(*_: object) -> None:
        raise failure

    await module.ExceptionMiddleware(fail, {**by_class, **by_status})(asgi, receive, send)


def _below_400(status: int) -> bool:
    return status < 400


def _never(status: int) -> bool:
    return False


_NAME = "{} {}".format
_CODE = ScopeMiddleware.__call__.__code__
