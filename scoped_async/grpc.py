"""ScopeInterceptor: a scope for each call of a grpc.aio server, committed before the status is sent."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from inspect import isasyncgenfunction, iscoroutinefunction
from typing import Any, TypeVar

import grpc
import grpc.aio

from ._answer import RequestScope, new_request
from ._frame import UNUSED
from ._policy import request_options
from ._upload import uploading
from .exceptions import ScopeError
from .session import is_retryable

Q = TypeVar("Q")
A = TypeVar("A")
Commits = Callable[[grpc.StatusCode], bool]
OK = grpc.StatusCode.OK


class ScopeInterceptor(grpc.aio.ServerInterceptor):
    """A scope for each call, of any of the four kinds; for ``grpc.aio.server(interceptors=[...])``.

    ``commit``: ``False``, never; ``True``, when the status is OK; or a function that is asked with the
    ``grpc.StatusCode``. ``name``: a function that makes the scope's name of the ``HandlerCallDetails``,
    called when somebody asks for it; by default the method, ``"/package.Service/Method"``. ``readonly``,
    ``close_timeout``: as in `scope()`. Put it last, so that the other interceptors see what it raises.

    The client hears of success by the status, which comes last in a call. So when the handler has ended, the
    work is committed, or rolled back when ``commit`` says no or ``rollback_only`` was set, and then the
    status is sent; ``close_timeout`` bounds that. Messages of a stream go out earlier and promise nothing.
    What cannot be serialized is not committed. ``context.abort()``, any other exception, a cancellation and
    the deadline roll back; amid the client's messages too, where grpc would just end those. A generator that
    the server drops at a ``yield``, because the client has gone, is closed by the event loop a moment later.

    A commit that fails ends the call with ``ABORTED`` when `is_retryable()` says that it may be tried again,
    else with ``INTERNAL``. What is raised, and logged by grpc, is a `ScopeError` with the failure as its
    ``__cause__``; of that the client sees nothing.
    A handler that is no ``async def`` runs in a thread, without a scope: `NoScopeError`. Raises `TypeError`
    for a function that is async or none, `ValueError` for ``readonly`` with ``commit``.

    .. versionadded:: 0.1
    """

    def __init__(
        self,
        *,
        commit: bool | Commits = False,
        name: Callable[[grpc.HandlerCallDetails], str] | None = None,
        readonly: bool = False,
        close_timeout: float | None = 10.0,
    ) -> None:
        self._options = request_options(commit, name, readonly=readonly, close_timeout=close_timeout)
        self._commits: Commits = commit if callable(commit) else lambda code: commit and code is OK
        self._name = name

    async def intercept_service(
        self,
        continuation: "Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Q, A] | None]]",
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Q, A] | None":
        """The method's handler, in a scope."""
        if (handler := await continuation(handler_call_details)) is None:
            return None
        kind = f"{_COUNTS[handler.request_streaming]}_{_COUNTS[handler.response_streaming]}"
        method: Any = getattr(handler, kind)
        generates = isasyncgenfunction(method)
        if not (generates or iscoroutinefunction(method)):
            return handler
        method = uploading(method) if handler.request_streaming else method
        serialize: Any = None if handler.response_streaming else handler.response_serializer

        async def call(request: Any, context: Any) -> Any:
            scope = self._scope(handler_call_details)
            async with scope:
                response = await method(request, context)
                if serialize is not None and _CODES.get(context.code()) is OK and scope.unit is not UNUSED:
                    serialize(response.encode() if isinstance(response, str) else response)  # as grpc will
                await self._settle(scope, context)
                return response

        async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
            scope = self._scope(handler_call_details)
            async with scope, aclosing(method(request, context)) as messages:
                async for message in messages:
                    yield message
                await self._settle(scope, context)

        scoped: Any = generate if generates else call
        make: Any = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(scoped, handler.request_deserializer, handler.response_serializer)  # type: ignore[no-any-return]

    def _scope(self, details: grpc.HandlerCallDetails) -> RequestScope:
        # No more than the string: a scope that has ended must not keep the call alive.
        naming = (str, details.method) if self._name is None else (self._name, details)
        return new_request(self._options, ScopeInterceptor.intercept_service.__code__, naming)

    async def _settle(self, scope: RequestScope, context: Any) -> None:
        """Commit, or roll back, as the status says that will be sent."""
        code, task = _CODES.get(context.code(), grpc.StatusCode.UNKNOWN), asyncio.current_task()
        over = context.done() or (task is not None and task.cancelling() > 0)  # and that was swallowed
        scope.commits = not over and self._commits(code)
        if scope.unit is UNUSED:
            return
        try:
            await scope.settle(success=not over and code is OK, ends=True)
        except Exception as error:
            scope.failure = None  # with its traceback it would keep the call alive
            context.set_code(grpc.StatusCode.ABORTED if is_retryable(error) else grpc.StatusCode.INTERNAL)
            raise ScopeError(f"The work of {scope.name} has failed at its end; see the cause.") from error


_COUNTS = {False: "unary", True: "stream"}
_CODES = {None: OK} | {key: code for code in grpc.StatusCode for key in (code, code.value[0])}
