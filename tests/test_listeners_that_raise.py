"""Listeners of SQLAlchemy's events that raise while a unit of work ends: nothing is lost on the way."""

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import object_session

from scoped_async import current_scope, scope
from watch import Item, Proxy, Watching, assert_works, names, out


def raise_at_the_next_rollback(engine: AsyncEngine) -> None:
    def fail(connection: object) -> None:
        event.remove(engine.sync_engine, "rollback", fail)
        raise OSError("the listener failed")

    event.listen(engine.sync_engine, "rollback", fail)


class TestLaw11OfARollback(Watching):
    """A connection whose rollback failed is terminated, not handed out for good."""

    @pytest.mark.parametrize("end", ["exit", "Session.rollback()", "Session.close()", "scope.release()"])
    async def test_its_place_in_the_pool_is_given_back(
        self, end: str, engine: AsyncEngine, Session: Proxy
    ) -> None:
        ends: dict[str, Any] = {
            "Session.rollback()": Session.rollback,
            "Session.close()": Session.close,
            "scope.release()": lambda: current_scope().release(),
        }
        with pytest.raises(OSError, match="the listener failed"):
            async with scope():
                await Session.execute(select(1))
                raise_at_the_next_rollback(engine)
                if end in ends:
                    await ends[end]()
        assert out(engine) == 0
        await assert_works(Session)

    async def test_nor_does_it_go_with_an_exception_of_the_body(
        self, engine: AsyncEngine, Session: Proxy
    ) -> None:
        with pytest.raises(ZeroDivisionError) as raised:
            async with scope():
                await Session.execute(select(1))
                raise_at_the_next_rollback(engine)
                raise ZeroDivisionError
        assert "the listener failed" in raised.value.__notes__[0]
        assert out(engine) == 0
        await assert_works(Session)

    async def test_and_what_was_pending_is_detached(self, engine: AsyncEngine, Session: Proxy) -> None:
        item = Item(id=1, name="a")
        with pytest.raises(OSError, match="the listener failed"):
            async with scope() as opened:
                await Session.execute(select(1))
                Session.add(item)
                opened.after_rollback(int)
                raise_at_the_next_rollback(engine)
        assert object_session(item) is None


class TestLaw23OfACommit(Watching):
    """What a listener raises after the COMMIT leaves the work committed, and its callbacks are told so."""

    @pytest.mark.parametrize("error", [OSError, asyncio.CancelledError])
    @pytest.mark.parametrize("by", ["Session.commit()", "Session.begin()"])
    async def test_after_commit_runs(
        self, by: str, error: type[BaseException], engine: AsyncEngine, Session: Proxy
    ) -> None:
        def fail(session: object) -> None:
            raise error("the listener failed")

        log: list[str] = []
        with pytest.raises(error, match="the listener failed"):
            async with scope() as opened:
                opened.after_commit(log.append, "committed")
                opened.after_rollback(log.append, "rolled back")
                event.listen(Session().sync_session, "after_commit", fail)
                if by == "Session.commit()":
                    Session.add(Item(id=1, name="a"))
                    await Session.commit()
                else:
                    async with Session.begin():
                        Session.add(Item(id=1, name="a"))
        assert log == ["committed"]
        assert await names(Session) == ["a"]
        assert out(engine) == 0
