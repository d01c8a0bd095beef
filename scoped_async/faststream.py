"""A scope per message of a FastStream broker: body, COMMIT, then the reply and the acknowledgement."""

from collections.abc import Awaitable, Callable
from typing import Any

from faststream import BaseMiddleware, ContextRepo, StreamMessage
from faststream.exceptions import AckMessage
from faststream.message import SourceType

from ._propagation import scope


class ScopeMiddleware:
    """Run every handler of the broker, or of the router, in a scope of its own, named after the handler.

        broker = NatsBroker(middlewares=[ScopeMiddleware()])

    Put it last, so that the other middlewares see how the commit went. ``commit``: commit when the handler
    has ended well, also by raising ``AckMessage``, the default unless ``readonly``; else roll back.
    ``readonly``, ``close_timeout``: as in `scope()`. A handler with options of its own is decorated with
    `scope()` itself: what the middleware has opened and nothing touches costs nothing.

    FastStream sends the reply and what ``@broker.publisher`` sends after the commit, and acknowledges last,
    as the ``ack_policy`` says; not so by ``AckPolicy.ACK_FIRST`` and when the handler does it itself. A
    commit that fails is what the handler fails with.

    Raises `ValueError` for ``readonly`` with ``commit``, `TypeError` for an option that is none.

    .. versionadded:: 0.1
    """

    def __init__(
        self,
        *,
        commit: bool | None = None,
        readonly: bool = False,
        close_timeout: float | None = 10.0,
    ) -> None:
        self._options: dict[str, Any] = {
            "commit": not readonly if commit is None else commit,
            "readonly": readonly,
            "close_timeout": close_timeout,
        }
        scope(**self._options)  # says what does not fit

    def __call__(self, msg: Any, /, *, context: ContextRepo) -> BaseMiddleware:
        """What FastStream asks for with each message."""
        return _ScopedMessage(msg, context=context, options=self._options)


class _ScopedMessage(BaseMiddleware):
    """One message."""

    def __init__(self, msg: Any, /, *, context: ContextRepo, options: dict[str, Any]) -> None:
        super().__init__(msg, context=context)
        self._options = options

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: StreamMessage[Any]) -> Any:
        """Run the handler in its scope."""
        subscriber = self.context.get_local("handler_")
        if subscriber is None or msg.source_type is SourceType.RESPONSE:  # fetched by hand, or an answer
            return await call_next(msg)
        name = " or ".join(call.name for call in subscriber.calls)
        acknowledged = None
        result: Any = None
        async with scope(**self._options, name=name):
            try:
                result = await call_next(msg)
            except AckMessage as done:  # a handler that says so has ended well
                acknowledged = done
        if acknowledged is not None:
            raise acknowledged
        return result
