"""How a session's transaction is committed: all but the COMMIT first, and what became of one that failed."""

from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from ._callbacks import Outcome
from ._checks import refuse_marked, usable_unit
from ._cleanup import add_note, first_of
from ._database import connections_of, has_ended, terminate_busy
from ._database_errors import is_unknown, was_answered
from ._failures import find_spoiled, forgive, has_failed, has_vanished
from ._frame import current
from ._transaction import HeldTransaction
from .exceptions import ReadOnlyScopeError, RollbackOnlyError

_commit, _commit_sync = AsyncSession.commit, Session.commit
_SPOILED = (
    "would be a rollback: a statement in its transaction failed, the error was swallowed, and PostgreSQL "
    "takes no commit after that. Let such an error out, or put what may fail in a savepoint: "
    '`async with Session.begin_nested(): ...` or scope(propagation="nested").'
)
_LOST = (
    "cannot be done: its connection was lost in the middle of the transaction, as when a timeout or a "
    "cancellation cuts a statement off, and that was swallowed. Let it out, or put what may be cut off in a "
    "scope of its own: `async with scope(): ...`."
)
_OVER = (
    "would commit nothing: its transaction is over. A statement has failed and ended it, as INSERT OR "
    "ROLLBACK does, or COMMIT or ROLLBACK was sent after one had failed, and the error was swallowed. Let "
    "such an error out, and end a transaction by Session.commit() or Session.rollback()."
)


class Committable(HeldTransaction):
    """An `AsyncSession` in one scope, as far as its commits go too."""

    unknown = False
    """Whether the last commit failed without an answer, so that it may have happened."""
    sent = False
    """Whether the last commit came as far as the COMMIT."""

    @property
    def outcome_unknown(self) -> bool:
        return self.unknown

    @property
    def outcome_of_failure(self) -> Outcome:
        """What became of the work when the last commit failed."""
        if self.unknown:
            return Outcome.UNKNOWN
        return Outcome.COMMITTED if self.was_committed else Outcome.ROLLED_BACK

    @property
    def commit_sent(self) -> bool:
        return self.sent

    async def commit(self, end: Callable[[], Awaitable[None]] | None = None) -> None:
        """Commit by ``end``, by default the session's own commit; when that fails roll back, and raise."""
        self.unknown = self.sent = self.was_committed = False
        session, sync_session = self.object, self.object.sync_session
        self.ending, transaction = True, sync_session.get_transaction()
        try:
            if self.readonly:
                self.refuse_flush(sync_session)
                await self.cutting_off(self.give_back)
            elif end is not None:
                await session.run_sync(self._prepare)
                await end()
            elif type(session).commit is _commit and type(sync_session).commit is _commit_sync:
                await greenlet_spawn(self._prepare, sync_session, sync_session.commit)
            else:
                await self._commit_by_its_class(sync_session)
        except BaseException as error:
            if self.was_done(transaction):
                self.was_committed = True
                add_note(error, f"The COMMIT of {self.label} was done: what came after it has raised this.")
                await self.cutting_off(self.give_back)
                raise
            self.unknown = self.sent and is_unknown(error)
            if self.unknown:
                add_note(
                    error,
                    f"The outcome of the commit of {self.label} is unknown: the connection was lost within "
                    "the COMMIT. Look in the database before you repeat the work.",
                )
            await self._recover(error)
            raise
        finally:
            self.ending = False
            self.begin_anew()

    async def _commit_by_its_class(self, session: Session) -> None:
        """Call a commit that may write before it calls SQLAlchemy's, and do more after it and fail."""
        self.watch()
        transaction = session.get_transaction()
        if transaction is None:  # so that nothing stands against it
            await self.object.commit()
            return
        end, done = transaction.commit, False

        def commit(_to_root: bool = False) -> None:
            nonlocal done
            self._prepare(session)
            try:
                end(_to_root)
            finally:
                done = self.was_done(transaction)

        transaction.commit = commit  # type: ignore[method-assign]  # which SQLAlchemy's commit comes to last
        try:
            await self.object.commit()
        finally:
            del transaction.commit
            if done:
                self.committed = transaction  # it may have committed another one since
        if not done and has_ended(transaction):  # rolled back, and that was swallowed
            self._settle(Outcome.ROLLED_BACK)

    def _prepare(self, session: Session, commit: Callable[[], None] | None = None) -> None:
        """Flush, and run the hooks of a commit, so that nothing but the COMMIT itself is left to send."""
        transaction = session.get_transaction()
        # SQLAlchemy's commit() does it at a higher cost. For an open savepoint and for two phases it sends
        # something, which is to come after the checks.
        is_plain = transaction is session._transaction and not session.twophase  # pyright: ignore[reportPrivateUsage]
        if transaction is not None and (is_plain or not _is_clean(session)):
            transaction._prepare_impl()  # pyright: ignore[reportPrivateUsage]
        unit = current.get().unit
        if self not in unit.values():  # of another scope, or one that has ended
            unit = usable_unit(self.owner.here(), "The commit")
        refuse_marked(unit, self.owner)  # by a hook of the flush, perhaps
        self.refuse_spoiled(session)
        self.note_unknown()
        if terminate_busy(connections_of(session)):
            raise self.still_in_use()
        self.sent = True
        if commit is not None:
            commit()

    def refuse_spoiled(self, session: Session) -> None:
        """Raise `RollbackOnlyError` where PostgreSQL would turn the COMMIT into a ROLLBACK, or has none."""
        if not (self.doubtful or self.failure is not None or has_failed(session)):
            return
        if any(connection.invalidated for connection in connections_of(session)):
            raise self._refused(_LOST) from self.failure
        if (answer := find_spoiled(session)) is not None:
            raise self._refused(_SPOILED) from first_of(self.failure, answer)
        if (self.failure is not None or has_failed(session)) and has_vanished(session):
            raise self._refused(_OVER) from self.failure
        forgive(session)

    def _refused(self, why: str) -> RollbackOnlyError:
        return RollbackOnlyError(f"The commit of {self.label}, opened at {self.owner.opened_at}, {why}")

    async def _recover(self, error: BaseException) -> None:
        """After a failed commit: leave no connection in the pool that is still in the middle of something."""
        try:
            if not isinstance(error, RollbackOnlyError | ReadOnlyScopeError) and not was_answered(error):
                await self._reset_connections()
            await self.object.rollback()
        except Exception as failure:
            self.abort()
            add_note(error, f"The rollback after it failed too: {failure!r}")

    async def _reset_connections(self) -> None:
        """Roll back by the driver, or terminate: SQLAlchemy's rollback sends nothing after a COMMIT."""

        def reset(session: Session) -> None:
            for connection in connections_of(session):
                if connection.in_transaction():  # no COMMIT was sent, or it is not the session's to send
                    continue
                if connection.dialect.name == "sqlite" and not connection.invalidated:
                    connection.dialect.do_rollback(connection.connection)
                else:
                    connection.invalidate()

        if connections_of(self.object.sync_session):
            await self.object.run_sync(reset)


def _is_clean(session: Session) -> bool:
    """Whether there is nothing to flush, and no hook that may change that."""
    return session._is_clean() and not session.dispatch.before_commit  # pyright: ignore[reportPrivateUsage]
