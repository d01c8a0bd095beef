"""Watch a session for work that is lost past the scope and the proxy, as SQLAlchemy and SQL allow."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction

from ._callbacks import Callbacks, Outcome
from ._database import connections_of, is_committed
from ._failures import has_vanished, was_refused
from ._frame import Owner
from ._heard import HeardConnection
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
    heard: Sequence[HeardConnection] = ()
    """The connections that are listened to."""

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
                self._hear(connection)
        for heard in self.heard:
            heard.note_registered(self._callbacks)

    def unwatch(self) -> None:
        """Hear of the session no more: it may live longer than the scope."""
        if self.is_watched:
            self.is_watched = False
            for name, note in self._notes.items():
                event.remove(self.object.sync_session, name, note)
            self._hear_no_more()

    def note_unknown(self) -> None:
        """Drop the callbacks of work that was ended past the proxy, and nobody knows how."""
        if not self.heard or any(heard.is_over for heard in self.heard):
            return
        session = self.object.sync_session
        if self.was_done(session.get_transaction()):
            return
        if self._is_unanswered if self._is_asked else has_vanished(session):
            self._settle(Outcome.UNKNOWN)

    def hear_out(self) -> None:
        """The scope or the proxy ends the transaction now: what is sent for that is no loss."""
        self.note_unknown()
        self._hear_no_more()

    def was_done(self, transaction: SessionTransaction | None) -> bool:
        """Whether the COMMIT of ``transaction`` was done, whatever a hook after it has raised."""
        return transaction is not None and (transaction is self.committed or is_committed(transaction))

    @property
    def _is_asked(self) -> bool:
        """Whether a COMMIT was sent."""
        return any(heard.is_asked for heard in self.heard)

    @property
    def _is_unanswered(self) -> bool:
        return self._is_asked and not any(was_refused(heard.connection) for heard in self.heard)

    def _hear(self, connection: Connection) -> None:
        self.heard = [*self.heard, HeardConnection(connection, self._callbacks)]

    def _hear_no_more(self) -> None:
        heard, self.heard = self.heard, ()
        for each in heard:
            each.stop()

    @property
    def _notes(self) -> dict[str, Callable[..., None]]:
        return {
            "after_begin": self._note_begin,
            "after_commit": self._note_commit,
            "after_transaction_end": self._note_end,
        }

    def _note_begin(self, _: Session, __: SessionTransaction, connection: Connection) -> None:
        if all(heard.connection is not connection for heard in self.heard):  # else a savepoint begins
            self._hear(connection)

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
            self._hear_no_more()

    def _settle(self, outcome: Outcome) -> None:
        if (callbacks := self._callbacks) is not None:
            callbacks.settle(outcome)

    @property
    def _callbacks(self) -> Callbacks | None:
        unit = self.owner.here().unit_in_use()
        return None if unit is None else unit.registered
