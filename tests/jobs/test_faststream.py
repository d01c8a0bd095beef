"""The middleware for FastStream: what is published of a handler, and how it says how it ended."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import pytest
from faststream import AckPolicy, BaseMiddleware, Depends, StreamMessage
from faststream.exceptions import AckMessage, NackMessage
from faststream.nats import NatsBroker, TestNatsBroker
from faststream.redis import RedisBroker, StreamSub
from job_ledger import Ledger
from sqlalchemy.exc import IntegrityError

from entries import break_the_commit, write
from nats_server import NatsServer
from scoped_async import current_scope, scope
from scoped_async.faststream import ScopeMiddleware


def new_broker(url: str = "nats://127.0.0.1:1", **options: Any) -> NatsBroker:
    return NatsBroker(url, middlewares=[ScopeMiddleware(**options)])


class TestReply:
    """What the handler returns is sent after the commit, or not at all."""

    async def test_sent_after_the_commit(self, ledger: Ledger) -> None:
        broker = new_broker()
        seen: list[set[str]] = []

        @broker.subscriber("transfers")
        @broker.publisher("receipts")
        async def transfer(amount: int) -> str:
            await write(ledger.session, "effect")
            return current_scope().name

        @broker.subscriber("receipts")
        async def receipt(text: str) -> None:
            assert text == "transfer"
            seen.append(await ledger.effects())

        async with TestNatsBroker(broker):
            await broker.publish(1, "transfers")
        assert seen == [{"effect"}]

    async def test_none_after_a_failed_commit(self, ledger: Ledger) -> None:
        broker = new_broker()
        receipts: list[str] = []

        @broker.subscriber("transfers")
        @broker.publisher("receipts")
        async def transfer(amount: int) -> str:
            await break_the_commit(ledger.session)
            return "done"

        @broker.subscriber("receipts")
        async def receipt(text: str) -> None:
            receipts.append(text)

        async with TestNatsBroker(broker):
            with pytest.raises(IntegrityError):
                await broker.publish(1, "transfers")
        assert receipts == []

    async def test_request_by_a_client(self, ledger: Ledger, nats: NatsServer, name: str) -> None:
        """The answer that a client receives runs through its middlewares too, and opens no scope."""
        broker = new_broker(nats.url)

        @broker.subscriber(name)
        async def transfer(amount: int) -> str:
            await write(ledger.session, "effect")
            return "done"

        async with broker:
            await broker.start()
            answer = await broker.request(1, name, timeout=30)
            assert await answer.decode() == "done"
            assert await ledger.effects() == {"effect"}


class TestHowItEnded:
    """A handler may say itself what becomes of its message."""

    async def test_acked_is_committed(self, ledger: Ledger) -> None:
        """``AckMessage`` is no failure: the message will not come again, so the work must be kept."""
        broker = new_broker()

        @broker.subscriber("transfers")
        async def transfer(amount: int) -> None:
            await write(ledger.session, "effect")
            raise AckMessage

        async with TestNatsBroker(broker):
            await broker.publish(1, "transfers")
        assert await ledger.effects() == {"effect"}

    async def test_nacked_is_rolled_back(self, ledger: Ledger) -> None:
        broker = new_broker()

        @broker.subscriber("transfers")
        async def transfer(amount: int) -> None:
            await write(ledger.session, "effect")
            raise NackMessage

        async with TestNatsBroker(broker):
            await broker.publish(1, "transfers")
        assert await ledger.effects() == set()

    async def test_acked_and_the_commit_fails(self, ledger: Ledger) -> None:
        """The failure takes the place of the acknowledgement."""
        broker = new_broker()

        @broker.subscriber("transfers")
        async def transfer(amount: int) -> None:
            await break_the_commit(ledger.session)
            raise AckMessage

        async with TestNatsBroker(broker):
            with pytest.raises(IntegrityError):
                await broker.publish(1, "transfers")


class TestWhatStandsAroundTheHandler:
    """Dependencies belong to the unit of work, and so do the middlewares that stand after ours."""

    async def test_dependencies(self, ledger: Ledger) -> None:
        """What they write is committed with the handler, also after their ``yield``."""
        broker = new_broker()

        async def note() -> AsyncIterator[str]:
            await write(ledger.session, "before")
            yield current_scope().name
            await write(ledger.session, "after")

        @broker.subscriber("transfers")
        async def transfer(amount: int, scope_of_dependency: Annotated[str, Depends(note)]) -> None:
            assert scope_of_dependency == "transfer"
            assert await ledger.effects() == set()

        async with TestNatsBroker(broker):
            await broker.publish(1, "transfers")
        assert await ledger.effects() == {"before", "after"}

    @pytest.mark.parametrize("ours_first", [True, False], ids=["after ours", "before ours"])
    async def test_a_middleware_that_fails(self, ledger: Ledger, ours_first: bool) -> None:
        """After ours it fails the unit of work; before ours it fails what is committed already."""

        class Fail(BaseMiddleware):
            async def consume_scope(
                self, call_next: Callable[[Any], Awaitable[Any]], msg: StreamMessage[Any]
            ) -> Any:
                await call_next(msg)
                raise LookupError("a mistake of the middleware")

        middlewares: list[Any] = [ScopeMiddleware(), Fail]
        broker = NatsBroker(middlewares=middlewares if ours_first else middlewares[::-1])

        @broker.subscriber("transfers")
        async def transfer(amount: int) -> None:
            await write(ledger.session, "effect")

        async with TestNatsBroker(broker):
            with pytest.raises(LookupError):
                await broker.publish(1, "transfers")
        assert await ledger.effects() == (set() if ours_first else {"effect"})

    async def test_direct_call(self) -> None:
        """It is a function as any other, in the scope of its caller."""
        broker = new_broker()

        @broker.subscriber("transfers")
        async def transfer(amount: int) -> bool:
            return current_scope(None) is caller

        async with scope() as caller:
            assert await transfer(1)


class TestPolicyWhereNoneIsGiven:
    """As the guide says: what has failed is given up, where anything is acknowledged at all."""

    @pytest.mark.parametrize("options", [{}, {"stream": "ledger"}], ids=["core", "JetStream"])
    def test_on_nats(self, options: dict[str, Any]) -> None:
        subscriber = new_broker().subscriber("transfers", **options)
        assert subscriber.ack_policy is AckPolicy.REJECT_ON_ERROR

    def test_on_redis(self) -> None:
        broker = RedisBroker()
        stream = StreamSub("transfers", group="ledger", consumer="worker")
        assert broker.subscriber(stream=stream).ack_policy is AckPolicy.REJECT_ON_ERROR
        assert broker.subscriber(list="transfers").ack_policy is AckPolicy.MANUAL
        assert broker.subscriber("transfers").ack_policy is AckPolicy.MANUAL


class TestOptions:
    """Those of `scope()`, for the broker; a handler that needs others is decorated itself."""

    def test_that_do_not_fit(self) -> None:
        with pytest.raises(ValueError, match="readonly"):
            ScopeMiddleware(commit=True, readonly=True)

    @pytest.mark.parametrize("option", [{"propagation": "join"}, {"name": "job"}])
    def test_that_there_are_none_of(self, option: dict[str, Any]) -> None:
        """Each message has a new scope, which has the handler's name."""
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            ScopeMiddleware(**option)

    async def test_readonly(self) -> None:
        """There is nothing to commit then, so it need not be said."""
        broker = new_broker(readonly=True)
        seen: list[tuple[bool, str]] = []

        @broker.subscriber("reports")
        async def report(number: int) -> None:
            seen.append((current_scope().readonly, current_scope().name))

        async with TestNatsBroker(broker), scope():
            await broker.publish(1, "reports")
        assert seen == [(True, "report")]

    async def test_of_a_handler(self) -> None:
        broker = new_broker()
        seen: list[bool] = []

        @broker.subscriber("reports")
        @scope(readonly=True)
        async def report(number: int) -> None:
            seen.append(current_scope().readonly)

        async with TestNatsBroker(broker):
            await broker.publish(1, "reports")
        assert seen == [True]
