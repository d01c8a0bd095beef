"""scope_middleware(): a scope for each request to aiohttp.web, committed before the client is told."""

from asyncio import get_running_loop
from collections.abc import Callable

from aiohttp import Payload, WSCloseCode, web
from aiohttp.http import StreamWriter
from aiohttp.typedefs import Handler, Middleware

from ._answer import new_request
from ._frame import UNUSED
from ._policy import request_options
from .exceptions import ScopeError


def scope_middleware(
    *,
    commit: bool | Callable[[int], bool] = False,
    name: Callable[[web.Request], str] | None = None,
    websocket: bool = False,
    readonly: bool = False,
    close_timeout: float | None = 10.0,
) -> Middleware:
    """A middleware that runs each request in a scope of its own; for ``web.Application(middlewares=[...])``.

    ``commit``: ``False``, never; ``True``, when the status is below 400; or a function that is asked with the
    status. ``name``: a function that makes the scope's name of the request, called when somebody asks for it;
    by default ``"GET /path"``. ``websocket``: whether a WebSocket has a scope, one for all its messages; by
    default each message is to open its own. ``readonly``, ``close_timeout``: as in `scope()`. Put it last, so
    that the others see what it raises. Raises `TypeError` for a function that is async or none, `ValueError`
    for ``readonly`` with ``commit``.

    Before the head of a response is sent, the work so far is committed, or rolled back when ``commit`` says
    no, ``rollback_only`` was set or the client has hung up; ``close_timeout`` bounds that. It is done in
    ``await response.prepare(request)``, after ``on_response_prepare``, where the handler calls that; else
    when it has returned the response, or raised it (`HTTPFound` is a success). A `FileResponse` and a body
    that is more than bytes are sent by this middleware, in the scope. What comes after the head goes on in a
    new transaction, committed at the end if the head was, and if the client has not hung up on the body, else
    rolled back. Any other exception rolls back and goes on. A commit that fails is raised in the handler's
    ``prepare()``, or else by this middleware, and nothing of that response is sent: what answers is a
    middleware further out, or aiohttp's 500.

    .. versionadded:: 0.1
    """
    options = request_options(commit, name, readonly=readonly, close_timeout=close_timeout)
    commits: Callable[[int], bool] = commit if callable(commit) else lambda status: commit and status < 400

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not websocket and "Sec-WebSocket-Key" in request.headers:  # no handshake goes without it
            return await handler(request)
        # No more than two strings: a scope that has ended must not keep the request alive.
        naming = ("{} {}".format, request.method, request.path) if name is None else (name, request)
        scope = new_request(options, middleware.__code__, naming)
        outer = vars(request).get(_HOOK)  # of another scope_middleware, of an application around this one
        started = False

        async def settle(status: int, *, ends: bool) -> None:
            nonlocal started
            here = request.transport is not None
            scope.commits = here and commits(status)
            if scope.unit is not UNUSED:
                await scope.settle(success=here and status < 400, ends=ends)
            started = True

        async def before_the_head(response: web.StreamResponse) -> None:
            await (getattr(web.Request, _HOOK)(request, response) if outer is None else outer(response))
            if not started:
                try:
                    await settle(response.status, ends=False)
                except BaseException:
                    # Another response may start: the writer was set up for this one, but nothing was written.
                    vars(response)["_payload_writer"] = None
                    vars(request)["_payload_writer"] = StreamWriter(request.protocol, get_running_loop())
                    raise

        vars(request)[_HOOK] = before_the_head
        try:
            async with scope:
                try:
                    response = await handler(request)
                except web.HTTPException as answer:
                    if not started:
                        await settle(answer.status, ends=True)
                    raise
                if not isinstance(response, web.StreamResponse):  # pyright: ignore[reportUnnecessaryIsInstance]
                    return response  # and aiohttp complains
                if not started:
                    if response.prepared:
                        raise ScopeError("It was prepared with a copy of the request: make that further out.")
                    if isinstance(response, web.Response) and not isinstance(response.body, Payload):
                        await settle(response.status, ends=True)
                    else:
                        await response.prepare(request)
                        await response.write_eof()
                        vars(response)["prepare"] = _sent
                if not _has_hung_up(request, response):
                    await scope.finish()
                return response
        finally:
            scope.failure = None  # with its traceback it would keep the request alive
            del vars(request)[_HOOK]
            vars(request).update({_HOOK: outer} if outer else {})

    return middleware


async def _sent(request: web.BaseRequest) -> None:
    """``prepare()`` of what was sent: the server calls it again, and that of a `FileResponse` would fail."""


def _has_hung_up(request: web.Request, response: web.StreamResponse) -> bool:
    if isinstance(response, web.WebSocketResponse):  # has no transport after its closing handshake either
        return response.close_code == WSCloseCode.ABNORMAL_CLOSURE
    return request.transport is None and not vars(response).get("_eof_sent")  # after that it may


_HOOK = "_prepare_hook"  # what `prepare()` of every response calls before it writes
