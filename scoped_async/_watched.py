"""Watch a session for work that is lost past the scope and the proxy, as SQLAlchemy and SQL allow."""

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from ._callbacks import Callbacks, Outcome
from ._database import connections_of, is_committed
from ._failures import forget_refusal, has_vanished, rolls_back, was_refused
from ._frame import Owner
from ._held import Held


class WatchedSession(Held):
    """An `AsyncSession` in one scope, as far as the fate of its work shows in the events of SQLAlchemy."""

    object: AsyncSession
    owner: Owner
    committed: SessionTransaction | None = None
    """The transaction that was committed last, as far as that is watched."""
    ending = False
    """Whether its transaction is being ended by the scope or the proxy, who know what becomes of the work."""
    forgotten = False
    """Whether the registry replaced it: its work counts as rolled back, which its close will do."""
    listens = False
    """Whether it listens to the session, for callbacks or since it is readonly, and is to let go of it."""
    is_watched = False
    listened: Sequence[Connection] = ()
    """The connections that are listened to."""
    is_asked = False
    """Whether a COMMIT was sent on one of them."""
    is_over = False
    """Whether a ROLLBACK was sent as a statement, after which there is no transaction for the database."""

    @property
    def savepoints(self) -> Sequence[SessionTransaction]:
        found: list[SessionTransaction] = []
        transaction = self.object.sync_session.get_nested_transaction()
        while transaction is not None:
            if transaction.nested:
                found.append(transaction)
            transaction = transaction.parent
        return found

    def watch(self) -> None:
        if not self.is_watched and not self.forgotten:
            self.is_watched = self.listens = True
            for name, note in self._notes.items():
                event.listen(self.object.sync_session, name, note)
            for connection in connections_of(self.object.sync_session):
                self._listen(connection)

    def unwatch(self) -> None:
        """Hear of the session no more: it may live longer than the scope."""
        if self.is_watched:
            self.is_watched = False
            for name, note in self._notes.items():
                event.remove(self.object.sync_session, name, note)
            self._listen_no_more()

    def note_unknown(self) -> None:
        """Drop the callbacks of work that was ended past the proxy, and nobody knows how."""
        if not self.listened or self.is_over:
            return
        session = self.object.sync_session
        if self.was_done(session.get_transaction()):
            return
        if self._is_unanswered if self.is_asked else has_vanished(session):
            self._settle(Outcome.UNKNOWN)

    def was_done(self, transaction: SessionTransaction | None) -> bool:
        """Whether the COMMIT of ``transaction`` was done, whatever a hook after it has raised."""
        return transaction is not None and (transaction is self.committed or is_committed(transaction))

    @property
    def _is_unanswered(self) -> bool:
        return self.is_asked and not any(map(was_refused, self.listened))

    def _listen(self, connection: Connection) -> None:
        self.listened = [*self.listened, connection]
        event.listen(connection, "after_cursor_execute", self._note_statement)
        event.listen(connection, "commit", self._note_asked)

    def _listen_no_more(self) -> None:
        for connection in self.listened:  # which may be the session's no longer than its transaction
            event.remove(connection, "after_cursor_execute", self._note_statement)
            event.remove(connection, "commit", self._note_asked)
        self.listened = ()
        self.is_asked = self.is_over = False

    @property
    def _notes(self) -> dict[str, Callable[..., None]]:
        return {
            "after_begin": self._note_begin,
            "after_commit": self._note_commit,
            "after_transaction_end": self._note_end,
        }

    def _note_begin(self, _: Session, __: SessionTransaction, connection: Connection) -> None:
        if connection not in self.listened:  # as when a savepoint begins
            self._listen(connection)

    def _note_statement(self, _: Connection, __: Any, statement: str, *___: Any) -> None:
        if rolls_back(statement):
            self.is_over = True
            self._settle(Outcome.ROLLED_BACK)

    def _note_asked(self, connection: Connection) -> None:
        self.is_asked = True
        forget_refusal(connection)

    def _note_commit(self, session: Session) -> None:
        self.committed = session.get_nested_transaction() or session.get_transaction()

    def _note_end(self, _: Session, transaction: SessionTransaction) -> None:
        kept = transaction is self.committed
        if transaction.nested:
            if not kept and (callbacks := self._callbacks) is not None:
                callbacks.lose(transaction)
        elif transaction.parent is None:
            if not kept and not self.ending:
                self._settle(Outcome.UNKNOWN if self._is_unanswered else Outcome.ROLLED_BACK)
            self._listen_no_more()

    def _settle(self, outcome: Outcome) -> None:
        if (callbacks := self._callbacks) is not None:
            callbacks.settle(outcome)

    @property
    def _callbacks(self) -> Callbacks | None:
        unit = self.owner.here().unit_in_use()
        return None if unit is None else unit.registered
