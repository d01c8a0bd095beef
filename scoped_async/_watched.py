"""Watch a session for work that is lost past the scope and the proxy, as SQLAlchemy and SQL allow."""

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from ._callbacks import Callbacks, Outcome
from ._database import connections_of, has_vanished
from ._frame import Owner
from ._held import Held

_ROLLBACK = re.compile(
    r"(?: \s | --[^\n]*\n | /\*.*?\*/ )* (?:ROLLBACK|ABORT) \b (?!.*\b(?:TO|PREPARED)\b)",
    re.IGNORECASE | re.DOTALL | re.VERBOSE,
)


class WatchedSession(Held):
    """An `AsyncSession` in one scope, as far as the fate of its work shows in the events of SQLAlchemy."""

    object: AsyncSession
    owner: Owner
    committed: SessionTransaction | None = None
    """The transaction that was committed last, as far as that is watched."""
    doubtful = False
    """Whether the driver's own connection was within reach, where errors are swallowed unseen."""
    ending = False
    """Whether a transaction is being ended by the scope or the proxy."""
    listened: Sequence[Connection] = ()
    """The connections whose statements are listened to."""

    @property
    def savepoints(self) -> Sequence[SessionTransaction]:
        found: list[SessionTransaction] = []
        transaction = self.object.sync_session.get_nested_transaction()
        while transaction is not None:
            if transaction.nested:
                found.append(transaction)
            transaction = transaction.parent
        return found[::-1]

    async def ending_by(self, end: Callable[[], Awaitable[None]]) -> None:
        """Await ``end``, which ends a transaction and says itself what becomes of the callbacks."""
        ending, self.ending = self.ending, True
        try:
            await end()
        finally:
            self.ending = ending

    def watch(self) -> None:
        session = self.object.sync_session
        if not event.contains(session, "after_commit", self._note_commit):
            event.listen(session, "after_begin", self._note_begin)
            event.listen(session, "after_commit", self._note_commit)
            event.listen(session, "after_transaction_end", self._note_end)
            for connection in connections_of(session):
                self._listen(connection)

    def note_vanished(self, session: Session) -> None:
        """Drop the callbacks of work that was ended by the driver's own connection: nobody knows how."""
        if (callbacks := self._callbacks) is not None and has_vanished(session):
            callbacks.postpone(Outcome.UNKNOWN)

    def _note_begin(self, _: Session, __: SessionTransaction, connection: Connection) -> None:
        if connection not in self.listened:  # as when a savepoint begins
            self._listen(connection)

    def _listen(self, connection: Connection) -> None:
        self.listened = [*self.listened, connection]
        event.listen(connection, "after_cursor_execute", self._note_statement)

    def _note_statement(self, _: Connection, __: Any, statement: str, *___: Any) -> None:
        if _ROLLBACK.match(statement) and (callbacks := self._callbacks) is not None:
            callbacks.postpone(Outcome.ROLLED_BACK)
            self.doubtful = False  # the driver knows of no transaction, and that is why

    def _note_commit(self, session: Session) -> None:
        self.committed = session.get_nested_transaction() or session.get_transaction()

    def _note_end(self, _: Session, transaction: SessionTransaction) -> None:
        if transaction.parent is None:
            for connection in self.listened:  # which may be the session's no longer than its transaction
                event.remove(connection, "after_cursor_execute", self._note_statement)
            self.listened = ()
        if self.ending or (callbacks := self._callbacks) is None:
            return
        kept = transaction is self.committed
        if transaction.nested:
            callbacks.end(transaction, Outcome.COMMITTED if kept else Outcome.ROLLED_BACK)
        elif transaction.parent is None and not kept:
            callbacks.postpone(Outcome.ROLLED_BACK)

    @property
    def _callbacks(self) -> Callbacks | None:
        unit = self.owner.here().unit_in_use()
        return None if unit is None else unit.registered
