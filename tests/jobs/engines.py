"""The job engines of the tests: the same job, sent to each of them, with the middleware on its broker."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from faststream import AckPolicy, BaseMiddleware, ContextRepo, StreamMessage
from faststream.nats import JStream, NatsBroker, PullSub, TestNatsBroker
from job_ledger import Ledger, Row
from nats.js.api import ConsumerConfig
from taskiq import AsyncBroker, InMemoryBroker, SimpleRetryMiddleware, TaskiqMessage, TaskiqMiddleware
from taskiq import TaskiqResult as Result
from taskiq.receiver import Receiver
from taskiq_nats import NATSObjectStoreResultBackend, PullBasedJetStreamBroker

from scoped_async.faststream import ScopeMiddleware as FastStreamScope
from scoped_async.taskiq import ScopeMiddleware as TaskiqScope
from watch import until

TIMEOUT = 2.0
"""Seconds that a job of the row of that name has."""
ACK_WAIT = 3.0
"""Seconds after which NATS delivers again what nobody has acknowledged."""

Outcome = tuple[object, str | None]
"""What a job returned, and the name of the error that it failed with."""


class Look(TaskiqMiddleware):
    """Looks into the database before the result is stored and the message acknowledged."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__()
        self.ledger = ledger

    async def post_execute(self, message: TaskiqMessage, result: Result[Any]) -> None:
        await self.ledger.look()


class Taskiq:
    """The job on a taskiq broker."""

    def __init__(self, ledger: Ledger, broker: AsyncBroker) -> None:
        self.broker = broker
        broker.add_middlewares(Look(ledger), SimpleRetryMiddleware(), TaskiqScope())
        self.task = broker.register_task(_job_of(ledger), "transfer")

    async def send(self, row: Row) -> Callable[[], Awaitable[Outcome]]:
        """Send the job; what is returned waits for its result."""
        labels: dict[str, Any] = {"timeout": TIMEOUT} if row is Row.TIMEOUT else {}
        if row is Row.RETRY:
            labels = {"retry_on_error": True}
        sent = await self.task.kicker().with_labels(**labels).kiq(row)

        async def outcome() -> Outcome:
            result = await sent.wait_result(check_interval=0.02, timeout=60)
            return result.return_value, type(result.error).__name__ if result.is_err else None

        return outcome

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Be able to send."""
        await self.broker.startup()
        yield
        await self.broker.shutdown()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work on what is sent."""
        if isinstance(self.broker, InMemoryBroker):
            yield
            return
        stop = asyncio.Event()
        receiver = Receiver(self.broker, max_async_tasks=10, run_startup=False, wait_tasks_timeout=0.1)
        listening = asyncio.create_task(receiver.listen(stop))
        yield
        stop.set()
        await listening

    async def unacknowledged(self) -> int:
        """How many deliveries wait for their acknowledgement."""
        if not isinstance(self.broker, PullBasedJetStreamBroker):
            return 0
        js, stream = self.broker.js, self.broker.stream_name
        return (await js.consumer_info(stream, self.broker.durable)).num_ack_pending or 0


class TimeLimit(BaseMiddleware):
    """FastStream leaves the limit to whoever needs one."""

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: StreamMessage[Any]) -> Any:
        with anyio.fail_after(TIMEOUT if await msg.decode() == Row.TIMEOUT else None):
            return await call_next(msg)


class Watching(BaseMiddleware):
    """The outermost: sees what the handler and its commit came to, and what is published of it."""

    def __init__(self, msg: Any, /, *, context: ContextRepo, stream: "FastStream") -> None:
        super().__init__(msg, context=context)
        self.stream = stream

    async def consume_scope(self, call_next: Callable[[Any], Awaitable[Any]], msg: StreamMessage[Any]) -> Any:
        try:
            value = await call_next(msg)
        except BaseException as error:
            if not isinstance(error, asyncio.CancelledError):
                await self.stream.ledger.look()
            self.stream.outcomes.put_nowait((None, type(error).__name__))
            raise
        await self.stream.ledger.look()
        self.stream.outcomes.put_nowait((value, None))
        return value


class FastStream:
    """The job on a FastStream broker, in memory or on NATS JetStream."""

    def __init__(self, ledger: Ledger, url: str | None, name: str) -> None:
        self.ledger = ledger
        self.in_memory = url is None
        self.name = name
        self.outcomes = asyncio.Queue[Outcome]()
        self.broker = NatsBroker(
            url or "nats://127.0.0.1:1",
            middlewares=[
                lambda msg, *, context: Watching(msg, context=context, stream=self),
                TimeLimit,
                FastStreamScope(),
            ],
            graceful_timeout=0.1,
        )
        self.stream = JStream(name, subjects=[f"{name}.*"])
        for policy in (AckPolicy.REJECT_ON_ERROR, AckPolicy.NACK_ON_ERROR):
            self.broker.subscriber(
                f"{name}.{policy.value}",
                stream=self.stream,
                durable=policy.value,
                pull_sub=PullSub(timeout=0.5),
                config=ConsumerConfig(ack_wait=ACK_WAIT),
                ack_policy=policy,
            )(_job_of(ledger))

    async def send(self, row: Row) -> Callable[[], Awaitable[Outcome]]:
        """Send the job; what is returned waits for the end of its next delivery."""
        policy = AckPolicy.NACK_ON_ERROR if row is Row.RETRY else AckPolicy.REJECT_ON_ERROR
        publishing = self.broker.publish(row, f"{self.name}.{policy.value}", stream=self.name)
        if not self.in_memory:
            await publishing
            return self.outcomes.get
        # The test broker runs the handler in the call, and raises what it raised.
        sending = asyncio.create_task(publishing)

        async def outcome() -> Outcome:
            await asyncio.gather(sending, return_exceptions=True)
            return await self.outcomes.get()

        return outcome

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Be able to send."""
        if self.in_memory:
            async with TestNatsBroker(self.broker):
                yield
            return
        await self.broker.connect()
        await self.broker.config.connection_state.stream.add_stream(
            name=self.name, subjects=[f"{self.name}.*"]
        )
        yield
        await self.broker.stop()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work on what is sent."""
        if not self.in_memory:
            await self.broker.start()
        yield

    async def unacknowledged(self) -> int:
        """How many deliveries wait for their acknowledgement."""
        if self.in_memory:
            return 0
        js = self.broker.config.connection_state.stream
        infos = await js.consumers_info(self.name)
        return sum(info.num_ack_pending or 0 for info in infos)


Engine = Taskiq | FastStream


def _job_of(ledger: Ledger) -> Callable[[str], Awaitable[str]]:
    async def transfer(row: str) -> str:
        return await ledger.job(row)

    return transfer


def taskiq_in_memory(ledger: Ledger, url: str, name: str) -> Engine:
    return Taskiq(ledger, InMemoryBroker())


def taskiq_on_nats(ledger: Ledger, url: str, name: str) -> Engine:
    broker = PullBasedJetStreamBroker(
        url,
        subject=name,
        stream_name=name,
        durable=name,
        consumer_config=ConsumerConfig(durable_name=name, ack_wait=ACK_WAIT),
        pull_consume_timeout=0.5,
    )
    results = NATSObjectStoreResultBackend[Any](url, bucket_name=f"{name}_results")
    return Taskiq(ledger, broker.with_result_backend(results))


def faststream_in_memory(ledger: Ledger, url: str, name: str) -> Engine:
    return FastStream(ledger, None, name)


def faststream_on_nats(ledger: Ledger, url: str, name: str) -> Engine:
    return FastStream(ledger, url, name)


ENGINES = {
    "taskiq": taskiq_in_memory,
    "taskiq-nats": taskiq_on_nats,
    "faststream": faststream_in_memory,
    "faststream-nats": faststream_on_nats,
}
IN_MEMORY = {"taskiq", "faststream"}


async def all_acknowledged(engine: Engine) -> None:
    """Return when nothing waits for its acknowledgement."""

    async def none_is_open() -> bool:
        return await engine.unacknowledged() == 0

    await until(none_is_open)
