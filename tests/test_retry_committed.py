"""is_retryable is false of what leaves a unit of which something is committed: that would be done twice."""

from collections.abc import Awaitable, Callable

import pytest
import stamina
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from entries import Entry, Sessions, write
from scoped_async import create_task_group, current_scope, is_retryable, scope

Fault = Callable[[], Awaitable[None]]


@pytest.fixture(params=["40001", "40P01", "a lost connection"])
def fault(request: pytest.FixtureRequest, Session: Sessions) -> Fault:
    """What fails as `is_retryable` wants it: in the scope that is current, or else in one of its own."""

    async def fail() -> None:
        if request.param == "a lost connection":
            await Session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        await Session.execute(text(f"DO 'BEGIN RAISE EXCEPTION USING errcode = ''{request.param}''; END'"))

    return fail


async def rows(engine: AsyncEngine) -> list[str]:
    """The texts that are committed, each as often as it is there."""
    async with engine.connect() as connection:
        return list(await connection.scalars(select(Entry.text).order_by(Entry.id)))


async def fail_to_serialize(engine: AsyncEngine) -> None:
    """Let each COMMIT that has inserted the text "late" fail with 40001."""
    async with engine.begin() as connection:
        await connection.execute(text(
            "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN IF NEW.text = ''late'' THEN RAISE EXCEPTION USING errcode = ''40001''; END IF; "
            "RETURN NULL; END'"
        ))  # fmt: skip
        await connection.execute(text(
            "CREATE CONSTRAINT TRIGGER refuses AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION refuse()"
        ))  # fmt: skip


class TestIsRetryableOfWhatIsCommitted:
    """False for each error that leaves a scope of which something was committed, whatever the error is."""

    async def test_the_fault_alone_is_retryable(self, fault: Fault, engine: AsyncEngine) -> None:
        """Else what follows would show nothing."""
        with pytest.raises(DBAPIError) as raised:
            async with scope(commit=True):
                await fault()
        assert is_retryable(raised.value)

    async def test_of_a_callback(self, fault: Fault, Session: Sessions, engine: AsyncEngine) -> None:
        with pytest.raises(DBAPIError) as raised:
            async with scope(commit=True) as opened:
                await write(Session, "order")
                opened.after_commit(fault)
        assert not is_retryable(raised.value)
        assert await rows(engine) == ["order"]

    async def test_of_a_callback_with_a_scope_of_its_own(
        self, fault: Fault, Session: Sessions, engine: AsyncEngine
    ) -> None:
        with pytest.raises(DBAPIError) as raised:
            async with scope(commit=True) as opened:
                await write(Session, "order")
                opened.after_commit(scope(commit=True)(fault))  # type: ignore[arg-type]
        assert not is_retryable(raised.value)

    async def test_of_several_callbacks(self, fault: Fault, Session: Sessions) -> None:
        with pytest.raises(ExceptionGroup) as raised:
            async with scope(commit=True) as opened:
                await write(Session, "order")
                opened.after_commit(scope(commit=True)(fault))  # type: ignore[arg-type]
                opened.after_commit(scope(commit=True)(fault))  # type: ignore[arg-type]
        assert not is_retryable(raised.value)

    @pytest.mark.parametrize("how", ["Session.commit", "scope.commit", "begin"])
    async def test_of_a_callback_that_a_commit_in_the_body_runs(
        self, how: str, fault: Fault, Session: Sessions, engine: AsyncEngine
    ) -> None:
        @scope(commit=True)
        async def callback() -> None:
            await fault()

        with pytest.raises(DBAPIError) as raised:
            async with scope() as opened:
                opened.after_commit(callback)
                if how == "begin":
                    async with Session.begin():
                        await write(Session, "order")
                else:
                    await write(Session, "order")
                    await (Session if how == "Session.commit" else opened).commit()
        assert not is_retryable(raised.value)
        assert await rows(engine) == ["order"]

    @pytest.mark.parametrize("how", ["Session.commit", "scope.commit", "begin"])
    async def test_of_the_body_after_a_commit(
        self, how: str, fault: Fault, Session: Sessions, engine: AsyncEngine
    ) -> None:
        with pytest.raises(DBAPIError) as raised:
            async with scope() as opened:
                if how == "begin":
                    async with Session.begin():
                        await write(Session, "by hand")
                else:
                    await write(Session, "by hand")
                    await (Session if how == "Session.commit" else opened).commit()
                await fault()
        assert not is_retryable(raised.value)
        assert await rows(engine) == ["by hand"]

    @pytest.mark.parametrize("how", ["exit", "scope.commit"])
    async def test_of_the_second_session_when_the_first_is_committed(
        self, how: str, Session: Sessions, Other: Sessions, engine: AsyncEngine
    ) -> None:
        await fail_to_serialize(engine)
        with pytest.raises(DBAPIError) as raised:
            async with scope(commit=how == "exit") as opened:
                await write(Session, "first")
                await write(Other, "late")
                if how == "scope.commit":
                    await opened.commit()
        assert getattr(raised.value.orig, "sqlstate", None) == "40001"
        assert not is_retryable(raised.value)
        assert await rows(engine) == ["first"]

    async def test_of_a_task_group_one_of_whose_children_had_committed(
        self, fault: Fault, Session: Sessions, engine: AsyncEngine
    ) -> None:
        async def child() -> None:
            await write(Session, "order")
            current_scope().after_commit(fault)

        with pytest.raises(ExceptionGroup) as raised:
            async with create_task_group(commit=True) as tg:
                tg.start_soon(child)
        assert not is_retryable(raised.value)

    async def test_what_was_committed_before_and_after_does_not_matter(
        self, fault: Fault, Session: Sessions
    ) -> None:
        """A unit that has committed nothing is retryable, whatever others did."""
        async with scope(commit=True):
            await write(Session, "before")
        with pytest.raises(DBAPIError) as raised:
            async with scope(commit=True):
                await write(Session, "lost")
                await fault()
        async with scope(commit=True):
            await write(Session, "after")
        assert is_retryable(raised.value)


class TestRetryOverAScopeStoresNothingTwice:
    """@stamina.retry(on=is_retryable) above @scope(commit=True) runs no unit again that is committed."""

    async def test_whose_callback_fails(self, fault: Fault, Session: Sessions, engine: AsyncEngine) -> None:
        @stamina.retry(on=is_retryable, attempts=3, wait_initial=0, wait_max=0)
        @scope(commit=True)
        async def place() -> None:
            await write(Session, "order")
            current_scope().after_commit(fault)

        with pytest.raises(DBAPIError):
            await place()
        assert await rows(engine) == ["order"]

    async def test_whose_second_session_fails(
        self, Session: Sessions, Other: Sessions, engine: AsyncEngine
    ) -> None:
        await fail_to_serialize(engine)

        @stamina.retry(on=is_retryable, attempts=3, wait_initial=0, wait_max=0)
        @scope(commit=True)
        async def place() -> None:
            await write(Session, "order")
            await write(Other, "late")

        with pytest.raises(DBAPIError):
            await place()
        assert await rows(engine) == ["order"]
