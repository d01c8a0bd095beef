"""What is heard of one connection of a watched session: what undoes its work, and that a COMMIT is sent."""

import asyncio
from typing import Any

from sqlalchemy import Connection, event

from ._callbacks import Callbacks, Outcome
from ._database_errors import sqlstate
from ._failures import forget_refusal, has_failed_on, note_failure
from ._statements import ENDS, Effect, effects


class HeardConnection:
    """A connection, and its savepoints as far as its statements tell of them.

    Those that were sent by SQLAlchemy, whoever has asked for it, and those that asyncpg was given past it.
    """

    def __init__(self, connection: Connection, callbacks: Callbacks | None) -> None:
        self.connection = connection
        self.callbacks = callbacks
        """What may be lost: kept, for when asyncpg tells of its statements another scope is current."""
        self.is_asked = False
        """Whether a COMMIT was sent on it."""
        self.is_over = False
        """Whether a ROLLBACK was sent as a statement, after which the database has no transaction."""
        self._savepoints: list[tuple[str, int]] = []
        """The name of each, and the number of the first callback that was registered within."""
        self._begun: int | None = None
        """The number of the first callback whose work a ROLLBACK would undo; ``None`` where none would."""
        self._told = self._registered
        """How many callbacks were registered when asyncpg was given what it tells of."""
        self._driver: Any = None
        event.listen(connection, "after_cursor_execute", self._note_statement)
        event.listen(connection, "commit", self._note_asked)
        checked_out = connection._dbapi_connection  # pyright: ignore[reportPrivateUsage]
        if connection.dialect.driver == "asyncpg" and checked_out is not None:
            # Of a pool of asyncpg's, its connection itself, which lives longer than what the pool hands out.
            self._driver = getattr(checked_out.driver_connection, "_con", checked_out.driver_connection)
            self._driver.add_query_logger(self._note_told)
            self._begun = 0 if self._driver.is_in_transaction() else None

    def stop(self) -> None:
        """Hear no more of it: it may be the session's no longer than its transaction."""
        event.remove(self.connection, "after_cursor_execute", self._note_statement)
        event.remove(self.connection, "commit", self._note_asked)
        if self._driver is not None:
            self._driver.remove_query_logger(self._note_told)

    def note_registered(self, callbacks: Callbacks | None) -> None:
        """One of ``callbacks`` was registered just now."""
        self.callbacks = callbacks
        if self._driver is not None:
            # asyncpg tells of its statements a turn of the loop later, so that this is to come as late.
            asyncio.get_running_loop().call_soon(self._note_number, self._registered)

    def _note_number(self, number: int) -> None:
        self._told = number

    @property
    def _registered(self) -> int:
        return 0 if self.callbacks is None else self.callbacks.registered

    def _note_asked(self, connection: Connection) -> None:
        self.is_asked = True
        self._begun = None  # what asyncpg tells of now is this COMMIT, and what comes after it
        forget_refusal(connection)

    def _note_statement(self, connection: Connection, _: Any, statement: str, *__: Any) -> None:
        if not connection._is_autocommit_isolation():  # pyright: ignore[reportPrivateUsage]
            self._begun = 0
        self._note(statement, self._registered)

    def _note_told(self, record: Any) -> None:
        error = record.exception
        if error is None:
            self._note(record.query, self._told)
            return
        note_failure(self.connection)
        if sqlstate(error) is None or ";" in record.query.rstrip("; \n"):  # else it has done nothing
            self._note(record.query, self._told, perhaps=True)

    def _note(self, sql: str, registered: int, *, perhaps: bool = False) -> None:
        """Follow what becomes of the transaction, in which ``registered`` callbacks are so far.

        ``perhaps``: whether it may not have been done, or not all of it.
        """
        lost = Outcome.UNKNOWN if perhaps else Outcome.ROLLED_BACK
        for effect, name in effects(sql):
            if effect is Effect.BEGIN:
                self._begun = registered if self._begun is None else self._begun
            elif effect is Effect.SAVEPOINT:
                self._savepoints.append((name, registered))
            elif effect is Effect.ROLLBACK_TO:
                self._end_savepoints(name, but_for_itself=True)
                self._settle(lost, range(self._savepoints[-1][1] if self._savepoints else 0, registered))
            elif effect is Effect.RELEASE and not perhaps:
                self._end_savepoints(name)
            elif effect in ENDS and self._begun is not None:
                self._end(effect, range(self._begun, registered), lost)

    def _end_savepoints(self, name: str, *, but_for_itself: bool = False) -> None:
        """Keep the stack as the database does; one that was set before the first callback is not in it."""
        depth = max((at for at, each in enumerate(self._savepoints) if each[0] == name), default=-1)
        del self._savepoints[depth + 1 if but_for_itself else max(depth, 0) :]

    def _end(self, effect: Effect, work: range, lost: Outcome) -> None:
        if effect is Effect.ROLLBACK:
            self.is_over = True
            self._settle(lost, work)
        elif work.start == 0 and not has_failed_on(self.connection):
            self._settle(Outcome.UNKNOWN, work)
        self._begun = None

    def _settle(self, outcome: Outcome, numbers: range) -> None:
        if self.callbacks is not None:
            self.callbacks.settle(outcome, numbers)
