"""What a scope holds of an AsyncSession: how it commits, rolls back, nests, gives back and closes."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy import event
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction
from sqlalchemy.orm import Session, SessionTransactionOrigin

from ._database import (
    connections_of,
    find_spoiled,
    forgive,
    has_failed,
    is_unknown,
    refuse_broken_savepoints,
    set_read_only,
    terminate,
    was_answered,
    wrote_or_locked,
)
from ._frame import Owner
from ._held import Held, Savepoint
from .exceptions import ReadOnlyScopeError, RollbackOnlyError

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncResult, AsyncScalarResult


class HeldSession(Held):
    """An `AsyncSession` in one scope."""

    __slots__ = (
        "doubtful",
        "failure",
        "forgotten",
        "loop",
        "object",
        "owner",
        "readonly",
        "streams",
        "unknown",
    )

    def __init__(self, session: AsyncSession, owner: Owner, *, readonly: bool) -> None:
        super().__init__()
        self.object = session
        self.owner = owner
        self.loop = owner.loop
        self.readonly = readonly
        self.doubtful = False
        """Whether the driver's own connection was within reach, where errors are swallowed unseen."""
        self.failure: BaseException | None = None
        """What the last operation that failed in this transaction raised."""
        self.forgotten = False
        """Whether the registry replaced it: then its work is rolled back."""
        self.unknown = False
        self.streams: list[AsyncResult[Any] | AsyncScalarResult[Any]] = []
        """Those handed out in this transaction, as far as they are not read to their end."""
        if readonly:
            event.listen(session.sync_session, "after_begin", set_read_only)
            event.listen(session.sync_session, "before_flush", self._refuse_flush)

    @property
    def label(self) -> str:
        return f"the session of {self.owner.name}"

    @property
    def in_transaction(self) -> bool:
        return self.object.sync_session.in_transaction()

    @property
    def is_idle(self) -> bool:
        session = self.object
        return (
            self.busy is None
            and not session.sync_session.in_transaction()
            and type(session).close is AsyncSession.close
        )

    @property
    def outcome_unknown(self) -> bool:
        return self.unknown

    # -- the outcome

    async def commit(self, end: Callable[[], Awaitable[None]] | None = None) -> None:
        """Commit by ``end``, by default the session's own commit; when that fails roll back, and raise."""
        self.unknown = False
        if self.forgotten:
            await self.roll_back()
            return
        try:
            if self.readonly:
                self._refuse_changes()
                await self.give_back()
            else:
                await self._refuse_spoiled()
                await (end or self.object.commit)()
        except BaseException as error:
            self.unknown = is_unknown(error)
            if self.unknown:
                error.add_note(
                    f"The outcome of the commit of {self.label} is unknown: the connection was lost within the "
                    "COMMIT. Look in the database before you repeat the work."
                )
            await self._recover(error)
            raise
        finally:
            self._begin_anew()

    async def roll_back(self) -> None:
        try:
            await self.object.rollback()
        finally:
            self._begin_anew()

    async def close(self) -> None:
        await self.object.close()

    def close_in_place(self) -> None:
        self.object.sync_session.close()

    def abort(self) -> None:
        terminate(self.object.sync_session)

    def _begin_anew(self) -> None:
        """Forget what belongs to the transaction that has ended."""
        self.failure = None
        self.doubtful = False
        self.streams = []

    async def _refuse_spoiled(self) -> None:
        """Raise `RollbackOnlyError` when PostgreSQL would turn the COMMIT into a ROLLBACK."""
        session = self.object.sync_session
        if not (self.doubtful or self.failure is not None or has_failed(session)):
            return
        if (answer := await self.object.run_sync(find_spoiled)) is not None:
            raise RollbackOnlyError(
                f"The commit of {self.label}, opened at {self.owner.opened_at}, would be a rollback: a statement "
                "in its transaction failed, the error was swallowed, and PostgreSQL takes no commit after "
                "that. Let such an error out, or put what may fail in a savepoint: "
                '`async with Session.begin_nested(): ...` or scope(propagation="nested").'
            ) from (self.failure or answer)
        forgive(session)

    async def _recover(self, error: BaseException) -> None:
        """After a failed commit: leave no connection in the pool that is still in the middle of something."""
        session = self.object.sync_session
        try:
            if not isinstance(error, RollbackOnlyError | ReadOnlyScopeError) and not was_answered(error):
                await self._reset_connections()
            await self.object.rollback()
        except Exception as failure:
            terminate(session)
            error.add_note(f"The rollback after it failed too: {failure!r}")

    async def _reset_connections(self) -> None:
        """SQLAlchemy's rollback sends nothing after a COMMIT was tried: roll back by the driver, or terminate."""

        def reset(session: Session) -> None:
            for connection in connections_of(session):
                if connection.dialect.name == "sqlite" and not connection.invalidated:
                    connection.dialect.do_rollback(connection.connection)  # type: ignore[arg-type]
                else:
                    connection.invalidate()

        if connections_of(self.object.sync_session):
            await self.object.run_sync(reset)

    # -- readonly

    def _refuse_flush(self, session: Session, *_: object) -> None:
        if session.new or session.deleted or any(session.is_modified(each) for each in session.dirty):
            raise ReadOnlyScopeError(
                f"The scope {self.owner.name}, opened at {self.owner.opened_at}, is readonly, and there are changes to "
                "flush. Write in a scope of its own: `async with scope(commit=True): ...`."
            )

    def _refuse_changes(self) -> None:
        self._refuse_flush(self.object.sync_session)

    # -- savepoints

    async def savepoint(self) -> Savepoint | None:
        if not self.in_transaction:
            return self.beginning()
        with suppress(UnboundExecutionError):  # no default bind: its connections are known when they are used
            await self.object.connection()
        await self.object.run_sync(refuse_broken_savepoints)
        return SavepointOfSession(self, await self.object.begin_nested())

    def beginning(self) -> Savepoint | None:
        return WholeTransaction(self)

    # -- release

    async def refuse_release(self) -> str | None:
        session = self.object.sync_session
        if not session.in_transaction():
            return None
        if session.new or session.deleted or any(session.is_modified(each) for each in session.dirty):
            return "it has pending changes. Flush and commit them, or expunge them, first"
        transaction = session.get_transaction()
        if session.in_nested_transaction() or (
            transaction is not None and transaction.origin is SessionTransactionOrigin.BEGIN
        ):
            return "a begin() or a savepoint is open. Leave its block first"
        if any(not stream.closed for stream in self.streams):
            return "a stream is half read. Read it to its end, or close it, first"
        if self.readonly or not connections_of(session):
            return None
        return await self.object.run_sync(wrote_or_locked)

    async def give_back(self) -> None:
        # The transaction's own close() rolls back and gives the connection back, and, unlike the
        # session's rollback() and commit(), expires nothing.
        def close(session: Session) -> None:
            if (transaction := session.get_transaction()) is not None:
                transaction.close()

        await self.object.run_sync(close)
        self._begin_anew()


class SavepointOfSession(Savepoint):
    """A SAVEPOINT on the session's connections."""

    def __init__(self, held: HeldSession, transaction: AsyncSessionTransaction) -> None:
        self.held = held
        self.transaction = transaction

    async def release(self) -> None:
        await self.transaction.commit()

    async def roll_back(self) -> None:
        await self.transaction.rollback()


class WholeTransaction(Savepoint):
    """The savepoint of a session that was in no transaction when the block began."""

    def __init__(self, held: HeldSession) -> None:
        self.held = held

    async def release(self) -> None:
        pass

    async def roll_back(self) -> None:
        await self.held.roll_back()
