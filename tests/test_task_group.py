"""Law 16: concurrency is had by scopes, and create_task_group() gives each child one."""

import asyncio
from typing import Any

import anyio
import anyio.abc
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import QueuePool

from entries import Entry, Sessions, break_the_commit, stored, write
from scoped_async import (
    ReadOnlyScopeError,
    Scope,
    create_task_group,
    current_scope,
    scope,
)


def checked_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


class TestLaw16ConcurrencyIsHadByScopes:
    """Each child of create_task_group() runs in a scope of its own; `limit` bounds how many do at once."""

    async def test_each_child_has_a_new_scope_inside_its_own_task(self, Session: Sessions) -> None:
        seen: list[tuple[Scope, AsyncSession, Any]] = []

        async def child() -> None:
            seen.append((current_scope(), Session(), asyncio.current_task()))

        async with create_task_group() as tg:
            tg.start_soon(child)
            tg.start_soon(child)

        (one, its_session, its_task), (other, other_session, other_task) = seen
        assert one is not other
        assert its_session is not other_session
        assert its_task is not other_task
        assert one.closed
        assert other.closed

    async def test_the_parent_is_the_scope_that_was_current_at_the_start_of_the_child(self) -> None:
        async def parent() -> Scope | None:
            return current_scope().parent

        async with create_task_group() as tg:
            without = tg.start_soon(parent)
            async with scope() as opened:
                within = tg.start_soon(parent)
                assert await without is None
                assert await within is opened

    async def test_the_scope_is_named_after_the_function_and_opened_where_that_stands(self) -> None:
        async def send_the_mail(number: int) -> tuple[str, str]:
            return current_scope().name, current_scope().opened_at

        async def wait_for_mail(*, task_status: anyio.abc.TaskStatus[str]) -> None:
            task_status.started(current_scope().name)

        here = f"test_task_group.py:{send_the_mail.__code__.co_firstlineno}"
        async with create_task_group() as tg:
            by_function, by_coroutine = tg.start_soon(send_the_mail, 1), tg.create_task(send_the_mail(2))
            assert await by_function == (send_the_mail.__qualname__, here)
            assert await by_coroutine == (send_the_mail.__qualname__, here)
            assert await tg.start(wait_for_mail) == wait_for_mail.__qualname__

    @pytest.mark.parametrize("word", ["new", "join"])
    async def test_also_when_that_function_is_decorated(self, word: str) -> None:
        seen: list[Scope] = []

        @scope(propagation=word)  # type: ignore[arg-type]
        async def send_the_mail() -> None:
            seen.append(current_scope() if word == "join" else current_scope().parent or current_scope())

        async with create_task_group() as tg:
            tg.start_soon(send_the_mail)
            tg.create_task(send_the_mail())
        line = send_the_mail.__wrapped__.__code__.co_firstlineno  # type: ignore[attr-defined]
        names_and_places = {(child.name, child.opened_at) for child in seen}
        assert len(seen) == 2
        assert names_and_places == {(send_the_mail.__qualname__, f"test_task_group.py:{line}")}

    async def test_the_options_are_those_of_the_scope(self, Session: Sessions, engine: AsyncEngine) -> None:
        async def child(name: str) -> str:
            await write(Session, name)
            return current_scope().name

        async with create_task_group(commit=True, name="writer") as tg:
            assert await tg.start_soon(child, "kept") == "writer"
        async with create_task_group() as tg:
            tg.start_soon(child, "not asked to be kept")
        assert await stored(engine) == {"kept"}

        async def refused() -> None:
            Session.add(Entry(text="never"))
            with pytest.raises(ReadOnlyScopeError):
                await Session.flush()
            Session.expunge_all()

        async with create_task_group(readonly=True) as tg:
            tg.start_soon(refused)

    def test_options_that_do_not_fit_are_refused_at_once(self) -> None:
        with pytest.raises(TypeError, match="propagation"):
            create_task_group(propagation="join")  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="positional"):
            create_task_group(5)  # type: ignore[call-arg]
        with pytest.raises(ValueError, match="readonly"):
            create_task_group(readonly=True, commit=True)
        with pytest.raises(ValueError, match="limit"):
            create_task_group(limit=0)

    async def test_the_commit_has_happened_when_the_task_ends(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async with create_task_group(commit=True) as tg:
            await tg.start_soon(write, Session, "first")
            assert await stored(engine) == {"first"}
            tg.start_soon(write, Session, "second")
        assert await stored(engine) == {"first", "second"}

    async def test_a_failing_child_cancels_the_rest_which_roll_back_and_what_is_committed_stays(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        cancelled = asyncio.Event()

        async def wait_after(name: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            await write(Session, name)
            task_status.started()
            try:
                await anyio.sleep_forever()
            finally:
                cancelled.set()

        async def fail() -> None:
            await write(Session, "failed")
            raise LookupError("the child's")

        with pytest.raises(ExceptionGroup) as raised:
            async with create_task_group(commit=True) as tg:
                await tg.start_soon(write, Session, "committed before")
                await tg.start(wait_after, "cancelled")
                tg.start_soon(fail)
        assert [str(error) for error in raised.value.exceptions] == ["the child's"]
        assert cancelled.is_set()
        assert await stored(engine) == {"committed before"}
        assert checked_out(engine) == 0

    async def test_a_commit_that_fails_is_the_failure_of_the_child(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        with pytest.raises(ExceptionGroup, match="unhandled errors") as raised:
            async with create_task_group(commit=True) as tg:
                tg.start_soon(break_the_commit, Session)
        assert "foreign key" in str(raised.value.exceptions[0])
        assert await stored(engine) == set()

    async def test_cancel_rolls_back_every_child(self, Session: Sessions, engine: AsyncEngine) -> None:
        async def wait_after(name: str, *, task_status: anyio.abc.TaskStatus[None]) -> None:
            await write(Session, name)
            task_status.started()
            await anyio.sleep_forever()

        async with create_task_group(commit=True) as tg:
            await tg.start(wait_after, "one")
            await tg.start(wait_after, "two")
            tg.cancel()
        assert tg.cancel_scope.cancel_called
        assert await stored(engine) == set()

    async def test_start_opens_the_scope_before_started_is_called(self, Session: Sessions) -> None:
        async def serve(*, task_status: anyio.abc.TaskStatus[Scope]) -> str:
            task_status.started(current_scope())
            await write(Session, "one")
            return "served"

        async with create_task_group() as tg:
            opened = await tg.start(serve)
            assert isinstance(opened, Scope)
            handle = await tg.start(serve, return_handle=True)
            assert isinstance(handle.start_value, Scope)
            assert handle.start_value is not opened
            assert await handle == "served"
        assert opened.closed
