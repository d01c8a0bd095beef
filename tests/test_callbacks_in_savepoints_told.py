"""Law 23: savepoints that the session does not know of: of its connection, of statements, of asyncpg."""

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import NamedTuple

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from entries import Log, Sessions, asyncpg_of, stored, write
from scoped_async import scope

Act = Callable[[Sessions], Awaitable[None]]


class Way(NamedTuple):
    """One to set a savepoint, to go back to the innermost, and to release it."""

    set: Act
    lose: Act
    release: Act


def by_a_statement(sql: str) -> Act:
    async def act(Session: Sessions) -> None:
        await Session.execute(text(sql))

    return act


def by_asyncpg(sql: str) -> Act:
    async def act(Session: Sessions) -> None:
        await (await asyncpg_of(Session)).execute(sql)

    return act


async def set_on_its_connection(Session: Sessions) -> None:
    await (await Session.connection()).begin_nested()


def end_on_its_connection(name: str) -> Act:
    async def act(Session: Sessions) -> None:
        connection: AsyncConnection = await Session.connection()
        savepoint = connection.sync_connection.get_nested_transaction()  # type: ignore[union-attr]
        await Session.run_sync(lambda _: getattr(savepoint, name)())

    return act


WAYS = {
    "of its connection": Way(
        set_on_its_connection, end_on_its_connection("rollback"), end_on_its_connection("commit")
    ),
    "of its connection, closed": Way(
        set_on_its_connection, end_on_its_connection("close"), end_on_its_connection("commit")
    ),
    "statements": Way(
        by_a_statement("SAVEPOINT here"), by_a_statement("ROLLBACK TO here"), by_a_statement("RELEASE Here")
    ),
    "long statements": Way(
        by_a_statement('SAVEPOINT /* ; */ "Here"'),
        by_a_statement('-- undo\nROLLBACK WORK TO SAVEPOINT "Here"'),
        by_a_statement('RELEASE SAVEPOINT "Here";'),
    ),
    "asyncpg": Way(by_asyncpg("SAVEPOINT a"), by_asyncpg("ROLLBACK TO a"), by_asyncpg("RELEASE a")),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
class TestLaw23SavepointsOfTheDatabase:
    """Callbacks follow the fate of the savepoint they were registered in, whoever has sent it."""

    async def test_rolled_back(self, way: Way, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            log.watch("outer")
            await way.set(Session)
            log.watch("inner")
            await write(Session, "lost")
            await way.lose(Session)
            log.watch("after")
            await write(Session, "kept too")
        assert log == ["outer committed", "inner rolled back", "after committed"]
        assert await stored(engine) == {"kept", "kept too"}

    async def test_set_before_the_first_callback(
        self, way: Way, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            await way.set(Session)
            await write(Session, "lost")
            log.watch("inner")
            await way.lose(Session)
            log.watch("after")
        assert log == ["inner rolled back", "after committed"]
        assert await stored(engine) == {"kept"}

    async def test_one_in_another(self, way: Way, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        async with scope(commit=True):
            log.watch("outer")
            await write(Session, "kept")
            await way.set(Session)
            log.watch("middle")
            await way.set(Session)
            await write(Session, "lost")
            log.watch("inner")
            await way.release(Session)
            log.watch("released")
            await way.lose(Session)
            await write(Session, "kept too")
        assert sorted(log) == [
            "inner rolled back",
            "middle rolled back",
            "outer committed",
            "released rolled back",
        ]
        assert await stored(engine) == {"kept", "kept too"}

    async def test_released(self, way: Way, Session: Sessions, engine: AsyncEngine, log: Log) -> None:
        for commit in (True, False):
            async with scope(commit=commit):
                await write(Session, "one")
                await way.set(Session)
                log.watch("inner")
                await way.release(Session)
                log.watch("after")
            fate = "committed" if commit else "rolled back"
            assert log == [f"inner {fate}", f"after {fate}"]
            log.clear()

    async def test_within_a_block_that_is_undone(
        self, way: Way, Session: Sessions, engine: AsyncEngine, log: Log
    ) -> None:
        async with scope(commit=True):
            await write(Session, "kept")
            log.watch("outer")
            with pytest.raises(LookupError):
                async with Session.begin_nested():
                    await way.set(Session)
                    log.watch("inner")
                    await way.release(Session)
                    raise LookupError
        assert sorted(log) == ["inner rolled back", "outer committed"]


@pytest.mark.parametrize("name", ["statements", "asyncpg"])
async def test_law23_one_that_is_rolled_back_twice(
    name: str, Session: Sessions, engine: AsyncEngine, log: Log
) -> None:
    """It stays set."""
    way = WAYS[name]
    async with scope(commit=True):
        await write(Session, "kept")
        log.watch("outer")
        await way.set(Session)
        for time in ("first", "second"):
            await write(Session, "lost")
            log.watch(time)
            await way.lose(Session)
    assert log == ["outer committed", "first rolled back", "second rolled back"]
    assert await stored(engine) == {"kept"}


async def test_law23_a_transaction_of_asyncpg_within(
    Session: Sessions, engine: AsyncEngine, log: Log
) -> None:
    """Its ``transaction()`` is a savepoint where SQLAlchemy has begun one."""
    async with scope(commit=True):
        await write(Session, "kept")
        log.watch("outer")
        driver = await asyncpg_of(Session)
        for fails in (False, True):
            with pytest.raises(LookupError) if fails else nullcontext():
                async with driver.transaction():
                    log.watch("lost" if fails else "inner")
                    if fails:
                        raise LookupError
    assert log == ["outer committed", "inner committed", "lost rolled back"]
