"""The middleware for taskiq: what a task says of its scope, which tasks have one, and direct calls."""

from typing import Annotated, Any

import pytest
from in_memory import broker_with, result_of
from job_ledger import Ledger
from taskiq import AsyncBroker, Context, InMemoryBroker, TaskiqDepends, async_shared_broker

from entries import Entry, write
from scoped_async import ReadOnlyScopeError, Scope, current_scope, scope
from scoped_async.taskiq import ScopeMiddleware


class TestOptionsOfAJob:
    """By the label ``scope`` where the task is declared."""

    async def test_readonly(self, ledger: Ledger) -> None:
        """It commits nothing, although the broker's jobs do."""
        broker = broker_with(ScopeMiddleware())

        @broker.task(scope={"readonly": True})
        async def report() -> bool:
            await ledger.deliveries()
            return current_scope().readonly

        @broker.task(scope={"readonly": True})
        async def change() -> None:
            ledger.session.add(Entry(text="effect"))
            await ledger.session.flush()

        assert (await result_of(report)).return_value is True
        assert isinstance((await result_of(change)).error, ReadOnlyScopeError)

    async def test_none(self) -> None:
        broker = broker_with(ScopeMiddleware())

        @broker.task(scope=False)
        async def ping() -> bool:
            return current_scope(None) is None

        assert (await result_of(ping)).return_value is True

    async def test_of_the_broker(self, ledger: Ledger) -> None:
        broker = broker_with(ScopeMiddleware(commit=False))

        @broker.task
        async def forget() -> None:
            await write(ledger.session, "effect")

        assert not (await result_of(forget)).is_err
        assert await ledger.effects() == set()

    async def test_readonly_for_all(self, ledger: Ledger) -> None:
        """There is nothing to commit then, so it need not be said; a job that writes says so."""
        broker = broker_with(ScopeMiddleware(readonly=True))

        @broker.task
        async def report() -> bool:
            return current_scope().readonly

        @broker.task(scope={"readonly": False})
        async def change() -> None:
            await write(ledger.session, "effect")

        assert (await result_of(report)).return_value is True
        assert not (await result_of(change)).is_err
        assert await ledger.effects() == {"effect"}

    async def test_a_name_of_its_own(self) -> None:
        broker = broker_with(ScopeMiddleware())

        @broker.task(scope={"name": "nightly"})
        async def report() -> str:
            return current_scope().name

        assert (await result_of(report)).return_value == "nightly"

    async def test_of_a_message(self, ledger: Ledger) -> None:
        """What a sender adds changes nothing: the label of the declaration counts."""
        broker = broker_with(ScopeMiddleware())

        @broker.task
        async def transfer() -> None:
            await write(ledger.session, "effect")

        sent = await transfer.kicker().with_labels(scope=False).kiq()
        assert not (await sent.wait_result(timeout=30)).is_err
        assert await ledger.effects() == {"effect"}

    async def test_that_do_not_fit(self) -> None:
        """They are refused where they are written, not when the job runs."""
        broker = broker_with(ScopeMiddleware())

        async def job() -> None:
            """Never run."""

        with pytest.raises(ValueError, match="readonly"):
            ScopeMiddleware(commit=True, readonly=True)
        with pytest.raises(ValueError, match="readonly"):
            broker.task("both", scope={"readonly": True, "commit": True})(job)
        with pytest.raises(TypeError, match="isolation"):
            broker.task("unknown", scope={"isolation": "SERIALIZABLE"})(job)

    @pytest.mark.parametrize("option", [{"propagation": "join"}, {"name": "job"}])
    def test_that_the_broker_has_none_of(self, option: dict[str, Any]) -> None:
        """Each job has a new scope, which has the task's name, unless its label says otherwise."""
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            ScopeMiddleware(**option)

    @pytest.mark.parametrize("label", [None, 0, "no", "readonly", ["readonly"]])
    async def test_a_label_that_is_none(self, label: object) -> None:
        """Also where the task was declared before the middleware."""
        early, broker = InMemoryBroker(), broker_with(ScopeMiddleware())

        async def job() -> None:
            """Never run."""

        said = "The label scope of job is True, False or the options of a scope.* and not "
        with pytest.raises(TypeError, match=said):
            broker.task("job", scope=label)(job)
        early.task("job", scope=label)(job)
        with pytest.raises(TypeError, match=said):
            early.add_middlewares(ScopeMiddleware())

    async def test_of_two_middlewares(self) -> None:
        """One would have to be ignored, and a job commit what the other says it must not."""
        broker = broker_with(ScopeMiddleware())
        with pytest.raises(ValueError, match="has a ScopeMiddleware already"):
            broker.add_middlewares(ScopeMiddleware(readonly=True))

    async def test_a_label_that_is_none_on_a_shared_task(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The worker that has it does not start: its jobs could only come again and again."""
        monkeypatch.setattr(AsyncBroker, "global_task_registry", {})
        broker = broker_with(ScopeMiddleware())

        async def job() -> None:
            """Never run."""

        async_shared_broker.task("job", scope="readonly")(job)
        with pytest.raises(TypeError, match="The label scope of job is"):
            await broker.startup()


class TestWhichTasks:
    """Every coroutine function of the broker, whenever it was declared."""

    async def test_declared_before_the_middleware(self) -> None:
        broker = InMemoryBroker(await_inplace=True)

        @broker.task("early")
        async def early() -> str:
            return current_scope().name

        broker.add_middlewares(ScopeMiddleware())
        assert (await result_of(early)).return_value == "early"

    async def test_shared(self) -> None:
        """A task that was declared on no broker runs in one scope, on however many brokers."""
        brokers = [broker_with(ScopeMiddleware()), broker_with(ScopeMiddleware())]

        @async_shared_broker.task("shared")
        async def shared() -> bool:
            return current_scope().parent is None

        for _ in range(2):
            for broker in brokers:
                sent = await shared.kicker().with_broker(broker).kiq()
                assert (await sent.wait_result(timeout=30)).return_value is True

    async def test_a_function_that_runs_in_a_thread(self) -> None:
        """There is no scope in it: an asyncio session would be of no use there."""
        broker = broker_with(ScopeMiddleware())

        @broker.task
        def plain() -> bool:
            return current_scope(None) is None

        assert (await result_of(plain)).return_value is True

    async def test_with_dependencies(self) -> None:
        """taskiq still finds what the function asks for."""
        broker = broker_with(ScopeMiddleware())

        @broker.task("asks")
        async def asks(number: int, context: Annotated[Context, TaskiqDepends()]) -> str:
            return f"{number} {context.message.task_name}"

        assert (await result_of(asks, 7)).return_value == "7 asks"


class TestDirectCall:
    """In the caller's scope only when told so."""

    async def test_a_scope_of_its_own(self, ledger: Ledger) -> None:
        broker = broker_with(ScopeMiddleware())

        @broker.task
        async def transfer() -> Scope:
            await write(ledger.session, "effect")
            return current_scope()

        async with scope() as outer:
            inner = await transfer()
        assert inner is not outer
        assert await ledger.effects() == {"effect"}

    async def test_joined(self, ledger: Ledger) -> None:
        """Also by the broker in memory, which runs the job where it is sent."""
        broker = broker_with(ScopeMiddleware())
        ran_in: list[Scope] = []

        @broker.task(scope={"propagation": "join"})
        async def transfer() -> None:
            await write(ledger.session, "effect")
            ran_in.append(current_scope())

        async with scope() as outer:
            await transfer()
            assert not (await result_of(transfer)).is_err
        assert ran_in == [outer, outer]
        assert await ledger.effects() == set()

    async def test_joined_where_the_sender_does_not_wait(self, ledger: Ledger) -> None:
        """The broker in memory runs the job beside it: when the sender's scope has ended, in a new one."""
        broker = InMemoryBroker()
        broker.add_middlewares(ScopeMiddleware())

        @broker.task(scope={"propagation": "join", "commit": True})
        async def transfer() -> bool:
            await write(ledger.session, "effect")
            return current_scope().parent is None

        async with scope():
            sent = await transfer.kiq()
        assert (await sent.wait_result(check_interval=0.02, timeout=30)).return_value is True
        assert await ledger.effects() == {"effect"}
