"""Messages that a client of grpc.aio streams: their end is told from a client that has gone."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from grpc.aio import EOF


def uploading(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """A handler whose client streams, so that it is cancelled where that client has gone."""

    def begin(messages: Any, context: Any) -> Any:
        upload = Upload(messages, context)
        return method(upload, upload)

    return begin


class Upload:
    """The messages and the context of one call, as its handler is to see them.

    Of a client that has gone grpc tells as of the end of its messages, and cancels the call a moment later: a
    handler that stores them would come to a good end with half of them. To read once more is to wait for that
    moment; an end that was one is then told again, at once.
    """

    def __init__(self, messages: Any, context: Any) -> None:
        self._messages = messages
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    def __aiter__(self) -> AsyncIterator[Any]:
        self._messages = aiter(self._messages)  # an interceptor's may be no iterator yet
        return self

    async def __anext__(self) -> Any:
        try:
            return await anext(self._messages)
        except StopAsyncIteration:
            await self._context.read()
            raise

    async def read(self) -> Any:
        """As ``context.read()``."""
        message = await self._context.read()
        return await self._context.read() if message is EOF else message
