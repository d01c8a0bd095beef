"""What a scope holds of an AsyncSession: its savepoints, its streams, and what stands against a release."""

from typing import Any

from sqlalchemy.orm import SessionTransaction

from ._commit import Committable
from ._database import (
    connections_of,
    has_been_read,
    has_changes,
    has_cursor,
    has_ended,
    set_savepoint,
    wrote_or_locked,
)
from ._held import Savepoint


class HeldSession(Committable):
    """An `AsyncSession` in one scope."""

    async def savepoint(self) -> Savepoint | None:
        if not self.in_transaction:
            return self.beginning()
        return SavepointOfSession(self, await self.object.run_sync(set_savepoint))

    def beginning(self) -> Savepoint | None:
        return WholeTransaction(self)

    # -- release

    def half_read(self) -> list[Any]:
        """The results of the streams that somebody has who may read on."""
        return [result for alive, result in self.streams if alive() and not has_been_read(result)]

    @property
    def is_streaming(self) -> bool:
        """Whether a stream has rows to fetch, for which PostgreSQL needs its transaction."""
        return any(has_cursor(result) for result in self.half_read()) and any(
            connection.dialect.name == "postgresql" for connection in connections_of(self.object.sync_session)
        )

    async def has_work(self) -> bool:
        """Whether there is anything to commit; on PostgreSQL, which can tell. Raises as `refuse_spoiled`."""
        session = self.object.sync_session
        if has_changes(session):
            return True
        await self.object.run_sync(self.refuse_spoiled)
        return bool(await self.object.run_sync(lambda _: wrote_or_locked(session, readonly=self.readonly)))

    async def refuse_release(self) -> str | None:
        session = self.object.sync_session
        if not session.in_transaction():
            return None
        if has_changes(session):
            return "it has pending changes. Flush and commit them, or expunge them, first"
        if session.in_nested_transaction() or session.get_transaction() is self.begun or self.commits_at_end:
            return "a begin() or a savepoint is open. Leave its block first"
        if self.half_read():
            return "a stream is half read. Read it to its end, or close it, first"
        return await self.object.run_sync(lambda _: wrote_or_locked(session, readonly=self.readonly))


class SavepointOfSession(Savepoint):
    """A SAVEPOINT on the session's connections."""

    def __init__(self, held: HeldSession, transaction: SessionTransaction) -> None:
        self.held = held
        self.transaction = transaction

    async def refuse_spoiled(self) -> None:
        if not has_ended(self.transaction):
            await self.held.object.run_sync(self.held.refuse_spoiled)

    async def release(self) -> None:
        if not has_ended(self.transaction):  # as by close() in the block
            await self.held.object.run_sync(lambda _: self.transaction.commit())

    async def roll_back(self) -> None:
        await self.held.object.run_sync(lambda _: self.transaction.rollback())


class WholeTransaction(Savepoint):
    """The savepoint of a session that was in no transaction when the block began."""

    def __init__(self, held: HeldSession) -> None:
        self.held = held

    async def refuse_spoiled(self) -> None:
        if self.held.in_transaction:
            await self.held.object.run_sync(self.held.refuse_spoiled)

    async def release(self) -> None:
        pass

    async def roll_back(self) -> None:
        await self.held.roll_back()
