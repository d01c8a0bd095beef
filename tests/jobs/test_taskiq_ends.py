"""The middleware for taskiq: how a job ends, and what is sent afterwards."""

import asyncio
from typing import Annotated, Any

import pytest
from in_memory import broker_with, result_of
from job_ledger import Ledger
from sqlalchemy.exc import IntegrityError
from taskiq import (
    Context,
    SimpleRetryMiddleware,
    TaskiqDepends,
    TaskiqMessage,
    TaskiqMiddleware,
    TaskiqResult,
)

from entries import break_the_commit, write
from scoped_async import NoScopeError, current_scope, scope
from scoped_async.taskiq import ScopeMiddleware


class TestFailedCommit:
    """It is what the job fails with."""

    async def test_seen_by_everybody(self, ledger: Ledger) -> None:
        """The result holds the error itself, and the retry middleware runs the job again."""
        broker = broker_with(SimpleRetryMiddleware(), ScopeMiddleware())
        attempts = iter(range(10))

        @broker.task(retry_on_error=True, max_retries=3)
        async def transfer() -> str:
            await write(ledger.session, "effect")
            if next(attempts) == 0:
                await break_the_commit(ledger.session)
            return "done"

        seen: list[BaseException] = []

        class Watch(TaskiqMiddleware):
            async def on_error(
                self, message: TaskiqMessage, result: TaskiqResult[Any], exception: BaseException
            ) -> None:
                assert result.error is exception
                seen.append(exception)

        broker.add_middlewares(Watch())
        assert (await result_of(transfer)).return_value == "done"
        assert [type(error) for error in seen] == [IntegrityError]
        assert next(attempts) == 2
        assert await ledger.effects() == {"effect"}


class TestNoResult:
    """A job that says that it has none is rolled back, as by any exception."""

    async def test_sent_again_by_itself(self, ledger: Ledger) -> None:
        broker = broker_with(ScopeMiddleware())
        attempts = iter(range(10))

        @broker.task
        async def transfer(context: Annotated[Context, TaskiqDepends()]) -> None:
            attempt = next(attempts)
            await write(ledger.session, f"effect {attempt}")
            if attempt == 0:
                await context.requeue()

        assert not (await result_of(transfer)).is_err
        assert await ledger.effects() == {"effect 1"}


class TestSendAfterTheCommit:
    """``current_scope().after_commit(task.kiq, ...)`` in a request."""

    @pytest.mark.parametrize("commit", [True, False])
    async def test_sent_with_the_commit_only(self, ledger: Ledger, commit: bool) -> None:
        broker = broker_with(ScopeMiddleware())
        seen: list[set[str]] = []

        @broker.task
        async def follow_up(text: str) -> None:
            seen.append(await ledger.effects())

        async with scope(commit=commit):
            await write(ledger.session, "order")
            current_scope().after_commit(follow_up.kiq, "order")
        assert seen == ([{"order"}] if commit else [])

    async def test_that_cannot_be_sent(self, ledger: Ledger) -> None:
        """The job fails and is committed, so it is tried again: its effect needs an id."""
        broker = broker_with(SimpleRetryMiddleware(), ScopeMiddleware())
        attempts = iter(range(10))

        def send() -> None:
            if next(attempts) == 0:
                raise ConnectionError("the queue is down")

        @broker.task(retry_on_error=True)
        async def transfer() -> None:
            await write(ledger.session, f"effect {len(await ledger.effects())}")
            current_scope().after_commit(send)

        assert not (await result_of(transfer)).is_err
        assert await ledger.effects() == {"effect 0", "effect 1"}


async def test_no_scope_is_left_behind() -> None:
    """The scope ends with the job, also for whoever sends it from the same task."""
    broker = broker_with(ScopeMiddleware())

    @broker.task
    async def transfer() -> None:
        await asyncio.sleep(0)

    await result_of(transfer)
    with pytest.raises(NoScopeError):
        current_scope()
