"""The options of the interceptor, and what else the scope of a call does in grpc.aio."""

import asyncio
import gc
import logging
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode
from protocol_database import Database
from sqlalchemy.exc import IntegrityError

from entries import break_the_commit, write
from grpc_calls import METHOD, Service, outcome, unary_unary
from scoped_async import NoScopeError, Scope, ScopeClosedError, ScopeError, current_scope, scope
from scoped_async.grpc import ScopeInterceptor

DONE = (StatusCode.OK, "done")


class TestRefused:
    @pytest.mark.parametrize("option", ["propagation", "close", "websocket"])
    def test_what_is_no_option(self, option: str) -> None:
        options: dict[str, Any] = {option: "join"}
        with pytest.raises(TypeError, match=option):
            ScopeInterceptor(**options)

    @pytest.mark.parametrize("commit", [True, lambda code: code is StatusCode.OK])
    def test_to_commit_what_is_readonly(self, commit: Any) -> None:
        with pytest.raises(ValueError, match="readonly"):
            ScopeInterceptor(commit=commit, readonly=True)

    @pytest.mark.parametrize("option", ["commit", "name"])
    @pytest.mark.parametrize("value", [Service("unary_unary", None).call, "OK"])
    def test_what_cannot_be_asked(self, option: str, value: Any) -> None:
        """An async function would say yes by the coroutine that it returns, and nobody awaits that."""
        with pytest.raises(TypeError, match=f"{option} is .*function that is not async"):
            ScopeInterceptor(**{option: value})

    def test_a_negative_time(self) -> None:
        with pytest.raises(ValueError, match="close_timeout"):
            ScopeInterceptor(close_timeout=-1)


class TestOutcome:
    async def test_never_committed_by_default(self, database: Database) -> None:
        async def work(context: Any) -> None:
            await write(database.Session, "a")

        assert await Service("unary_unary", unary_unary(work), [ScopeInterceptor()]).call() == DONE
        assert await database.stored() == set()

    async def test_rollback_only_set_by_hand(self, database: Database) -> None:
        """The response goes on as it is, and all is rolled back."""

        async def work(context: Any) -> None:
            await write(database.Session, "a")
            current_scope().rollback_only = True

        assert await Service("unary_unary", unary_unary(work)).call() == DONE
        assert await database.stored() == set()

    async def test_a_joined_block_that_failed(self, database: Database) -> None:
        async def work(context: Any) -> None:
            await write(database.Session, "a")
            with suppress(LookupError):
                async with scope(propagation="join"):
                    raise LookupError

        status, _ = await Service("unary_unary", unary_unary(work)).call()
        assert (status, await database.stored()) == (StatusCode.INTERNAL, set())

    async def test_callbacks_without_any_session(self) -> None:
        ran: list[str] = []

        async def work(context: Any) -> None:
            current_scope().after_commit(ran.append, "commit")

        await Service("unary_unary", unary_unary(work)).call()
        assert ran == ["commit"]

    async def test_an_interceptor_further_out_answers(self, database: Database) -> None:
        """What failed is the cause of what it sees, and no status has been sent."""

        class Conflict(grpc.aio.ServerInterceptor):
            async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
                handler = await continuation(handler_call_details)

                async def answer(request: bytes, context: Any) -> Any:
                    try:
                        return await handler.unary_unary(request, context)
                    except ScopeError as error:
                        if isinstance(error.__cause__, IntegrityError):
                            await context.abort(StatusCode.ALREADY_EXISTS, "it is there")
                        raise

                return grpc.unary_unary_rpc_method_handler(answer)

        async def work(context: Any) -> None:
            await break_the_commit(database.Session)

        interceptors = [Conflict(), ScopeInterceptor(commit=True)]
        service = Service("unary_unary", unary_unary(work), interceptors)
        assert await service.call() == (StatusCode.ALREADY_EXISTS, "it is there")

    async def test_an_interceptor_further_out_still_sees_the_message(self) -> None:
        """It is not serialized yet; and that of a generator is one still."""
        seen: list[object] = []

        class Look(grpc.aio.ServerInterceptor):
            async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
                handler = await continuation(handler_call_details)

                async def look(request: bytes, context: Any) -> AsyncIterator[Any]:
                    async for message in handler.unary_stream(request, context):
                        seen.append(message)
                        yield message

                return grpc.unary_stream_rpc_method_handler(look, response_serializer=bytes)

        async def handle(request: bytes, context: Any) -> AsyncIterator[list[int]]:
            yield [100, 111, 110, 101]

        assert await Service("unary_stream", handle, [Look(), ScopeInterceptor()]).call() == DONE
        assert seen == [[100, 111, 110, 101]]

    async def test_text_is_sent_as_grpc_sends_it(self, database: Database) -> None:
        """It encodes that before it calls the serializer."""

        async def handle(request: bytes, context: Any) -> str:
            await write(database.Session, "a")
            return "done"

        assert await Service("unary_unary", handle).call() == DONE
        assert await database.stored() == {"a"}


class TestName:
    async def test_by_default(self) -> None:
        names: list[str] = []

        async def work(context: Any) -> None:
            names.append(current_scope().name)

        await Service("unary_unary", unary_unary(work)).call()
        assert names == [METHOD]

    async def test_built_when_somebody_asks(self, database: Database) -> None:
        asked: list[str] = []
        names: list[str] = []

        def name(details: grpc.HandlerCallDetails) -> str:
            asked.append(details.method)
            return f"the handler of {details.method}"

        async def silent(context: Any) -> None:
            await write(database.Session, "a")

        async def work(context: Any) -> None:
            names.append(current_scope().name)

        await Service("unary_unary", unary_unary(silent), [ScopeInterceptor(name=name)]).call()
        assert asked == []
        await Service("unary_unary", unary_unary(work), [ScopeInterceptor(name=name)]).call()
        assert names == [f"the handler of {METHOD}"]

    @pytest.mark.parametrize("failed", [False, True])
    async def test_a_dead_scope_keeps_no_call_alive(
        self, database: Database, caplog: pytest.LogCaptureFixture, failed: bool
    ) -> None:
        """Nor does it keep the failure of its commit, whose traceback would."""
        caplog.set_level(logging.CRITICAL, "grpc._cython.cygrpc")  # pytest keeps what is logged

        scopes: list[Scope] = []
        callbacks: list[weakref.ref[Any]] = []

        async def work(context: Any) -> None:
            def end(_: Any) -> None:
                """Held by the call."""

            context.add_done_callback(end)
            scopes.append(current_scope())
            callbacks.append(weakref.ref(end))
            if failed:
                await break_the_commit(database.Session)

        status, _ = await Service("unary_unary", unary_unary(work)).call()
        assert status is (StatusCode.INTERNAL if failed else StatusCode.OK)
        gc.collect()
        assert (callbacks[0](), scopes[0].name) == (None, METHOD)


async def test_a_task_that_outlives_the_call(database: Database) -> None:
    """It has no scope any more; it opens its own."""
    call_has_ended = asyncio.Event()
    tasks: list[asyncio.Task[None]] = []

    async def late() -> None:
        await call_has_ended.wait()
        with pytest.raises(
            ScopeClosedError, match=rf"the scope {METHOD} is closed.*Open a scope of your own"
        ):
            await write(database.Session, "late")
        async with scope(commit=True):
            await write(database.Session, "in its own scope")

    async def work(context: Any) -> None:
        tasks.append(asyncio.create_task(late()))

    await Service("unary_unary", unary_unary(work)).call()
    call_has_ended.set()
    await tasks[0]
    assert await database.stored() == {"in its own scope"}


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream"])
async def test_handlers_that_are_not_async_have_no_scope(database: Database, kind: str) -> None:
    """grpc runs them in a thread of its own, where none is current; the error says what opens one."""
    refusals: list[str] = []

    def do() -> None:
        with pytest.raises(NoScopeError) as refusal:
            database.Session()
        refusals.append(str(refusal.value))

    def handle(request: bytes, context: Any) -> bytes:
        do()
        return b"done"

    def generate(request: bytes, context: Any) -> Any:
        do()
        yield b"done"

    assert await Service(kind, handle if kind == "unary_unary" else generate).call() == DONE
    assert "async with scope()" in refusals[0]


async def test_a_method_that_is_not_there() -> None:
    """grpc's own answer; nothing is there to put in a scope."""

    async def work(context: Any) -> None: ...

    async with Service("unary_unary", unary_unary(work)).serve() as call:
        assert (await outcome(call(method="/tests.Service/Elsewhere")))[0] is StatusCode.UNIMPLEMENTED
