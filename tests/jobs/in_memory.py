"""taskiq's broker in memory, as its tests use it."""

from typing import Any

from taskiq import InMemoryBroker, TaskiqMiddleware, TaskiqResult


def broker_with(*middlewares: TaskiqMiddleware) -> InMemoryBroker:
    """A broker that has done the job when the sender goes on."""
    broker = InMemoryBroker(await_inplace=True)
    broker.add_middlewares(*middlewares)
    return broker


async def result_of(task: Any, *arguments: object) -> TaskiqResult[Any]:
    sent = await task.kiq(*arguments)
    result: TaskiqResult[Any] = await sent.wait_result(timeout=30)
    return result
