"""The proxy's registry, while a session is in use, or after its scope has ended."""

import asyncio
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from entries import Log, Sessions, stored, write
from scoped_async import AsyncScopedSession, scope


class Lingering(AsyncSession):
    """One whose close waits until it may go on."""

    closing: asyncio.Event
    go_on: asyncio.Event

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.closing, self.go_on = asyncio.Event(), asyncio.Event()

    async def close(self) -> None:
        self.closing.set()
        await self.go_on.wait()
        await super().close()


class TestRegistryMeanwhile:
    """What the registry was given while the one before is being closed stays."""

    async def test_remove_forgets_only_what_it_closes(self, engine: AsyncEngine) -> None:
        Session = AsyncScopedSession(async_sessionmaker(engine, class_=Lingering))
        async with scope():
            before, after = Session(), Lingering(engine)
            removing = asyncio.create_task(Session.remove())
            await before.closing.wait()
            Session.registry.set(after)
            before.go_on.set()
            await removing
            assert Session() is after
            after.go_on.set()

    async def test_clearing_one_in_no_transaction_is_no_rollback(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        log = Log()
        async with scope(commit=True):
            log.watch()
            first = Session()
            Session.registry.clear()
            assert Session() is not first
            await write(Session, "kept")
        assert log == ["committed"]
        assert await stored(engine) == {"kept"}

    async def test_what_a_kept_session_does_after_its_scope_is_nothing_to_its_callbacks(
        self, Session: Sessions, engine: AsyncEngine
    ) -> None:
        log = Log()
        async with scope(commit=True):
            log.watch()
            await write(Session, "kept")
            kept = Session()
        async with scope() as other:
            other.after_commit(log.append, "the other's")
            await write(kept, "late")
            await kept.rollback()
        assert log == ["committed", "the other's"]
        assert await stored(engine) == {"kept"}
