"""What is heard of one connection of a watched session: what undoes its work, and that a COMMIT is sent."""

import asyncio
from typing import Any

from sqlalchemy import Connection, event

from ._callbacks import Callbacks, Outcome
from ._failures import forget_refusal, note_failure
from ._statements import Effect, effects


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
        self._told = self._registered
        """How many callbacks were registered when asyncpg was given what it tells of."""
        self._is_begun = False
        """Whether a ROLLBACK that asyncpg is given would undo what was sent by SQLAlchemy."""
        self._driver: Any = None
        event.listen(connection, "after_cursor_execute", self._note_statement)
        event.listen(connection, "commit", self._note_asked)
        checked_out = connection._dbapi_connection  # pyright: ignore[reportPrivateUsage]
        if connection.dialect.driver == "asyncpg" and checked_out is not None:
            adapter: Any = checked_out.dbapi_connection
            self._is_begun = adapter._transaction is not None
            self._driver = checked_out.driver_connection
            self._driver.add_query_logger(self._note_told)

    def stop(self) -> None:
        """Hear no more of it: it may be the session's no longer than its transaction."""
        event.remove(self.connection, "after_cursor_execute", self._note_statement)
        event.remove(self.connection, "commit", self._note_asked)
        if self._driver is not None:
            self._driver.remove_query_logger(self._note_told)
            self._driver = None

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
        forget_refusal(connection)

    def _note_statement(self, _: Connection, __: Any, statement: str, *___: Any) -> None:
        self._is_begun = True
        for effect, name in effects(statement):
            if effect is Effect.ROLLBACK:
                self.is_over = True
                self._lose(0, self._registered)
            else:
                self._note_savepoint(effect, name, self._registered)

    def _note_told(self, record: Any) -> None:
        if self._driver is None:  # of the transaction before
            return
        if record.exception is not None:
            note_failure(self.connection)
            return
        for effect, name in effects(record.query):
            if effect is not Effect.ROLLBACK:
                self._note_savepoint(effect, name, self._told)
            elif self._is_begun:  # else of a transaction of asyncpg's own
                self._is_begun, self.is_over = False, True
                self._lose(0, self._told)

    def _note_savepoint(self, effect: Effect, name: str, registered: int) -> None:
        """Keep the stack as the database does; one that was set before the first callback is not in it."""
        if effect is Effect.SAVEPOINT:
            self._savepoints.append((name, registered))
            return
        if effect is Effect.COMMIT:
            return
        depth = max((at for at, each in enumerate(self._savepoints) if each[0] == name), default=-1)
        if effect is Effect.ROLLBACK_TO:
            self._lose(self._savepoints[depth][1] if depth >= 0 else 0, registered)
            depth += 1  # the savepoint itself is still set
        del self._savepoints[max(depth, 0) :]

    def _lose(self, first: int, end: int) -> None:
        if self.callbacks is not None:
            self.callbacks.settle(Outcome.ROLLED_BACK, range(first, end))
