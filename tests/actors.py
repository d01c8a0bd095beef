"""Tasks that do one thing at a time, each when it is told to, so that a sequence over many has one order.

An actor keeps its Context from one order to the next: what it opens stays current there until it is left.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

Order = Callable[[], Awaitable[Any]]


class Actor:
    """A task that takes orders."""

    def __init__(self) -> None:
        self._orders: asyncio.Queue[tuple[Order, bool, asyncio.Future[Any]]] = asyncio.Queue()
        self.on_cancel: Order | None = None
        """What it does when it is cancelled between two orders, before it ends."""
        self.task = asyncio.create_task(self._live())

    async def do(self, order: Order, *, cancelled: bool = False) -> Any:
        """What ``order`` returns, or the exception that it raises.

        ``cancelled``: cancel the task when the order has begun, so that its first wait is interrupted.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._orders.put_nowait((order, cancelled, done))
        await asyncio.wait((done, self.task), return_when=asyncio.FIRST_COMPLETED)
        return done.result()

    async def start(self) -> "Actor":
        """A child, which inherits what is current here."""

        async def child() -> Actor:
            return Actor()

        actor: Actor = await self.do(child)
        return actor

    async def cancel(self) -> None:
        """Cancel it between two orders, and return when it has ended."""
        await self.do(nothing)  # it runs, and waits for orders
        self.task.cancel()
        await asyncio.wait((self.task,))

    async def _live(self) -> None:
        try:
            while True:
                order, cancelled, done = await self._orders.get()
                done.set_result(await obey(order, cancelled))
        finally:
            if self.on_cancel is not None:
                await self.on_cancel()


async def obey(order: Order, cancelled: bool) -> Any:
    task = asyncio.current_task()
    assert task is not None
    result: Any = None
    try:
        if cancelled:
            task.cancel()
        result = await order()
    except (Exception, asyncio.CancelledError) as error:
        result = error
    try:
        if cancelled:
            await asyncio.sleep(0)  # an order that waits for nothing has not met its cancellation yet
    except asyncio.CancelledError as error:
        result = error
    while task.uncancel():
        pass
    return result


async def nothing() -> None:
    """An order that only shows that the actor is there."""
