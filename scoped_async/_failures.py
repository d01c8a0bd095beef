"""What stands against a commit: a statement that failed, a COMMIT refused, a transaction that is over."""

from typing import Any
from weakref import WeakSet, ref

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ._database import connections_of, is_undecided
from ._database_errors import IN_FAILED_TRANSACTION, is_unknown, sqlstate, was_answered

_failed: "set[ref[Connection]]" = set()
"""Connections on which a statement failed since their last commit, as in a WeakSet, which is slower."""
_refused: "WeakSet[Connection]" = WeakSet()
"""Connections on which what is no statement failed, as a COMMIT, and the server has said so."""


@event.listens_for(Engine, "handle_error")
def _remember(context: ExceptionContext) -> None:
    connection, error = context.connection, context.original_exception
    if connection is None:
        return
    note_failure(connection)
    if context.statement is not None:
        return
    # It is a COMMIT, a ROLLBACK or the like. One that the server did not answer leaves the connection in the
    # middle of something, and SQLAlchemy would hand it back to the pool.
    if not is_unknown(context.sqlalchemy_exception or error):
        _refused.add(connection)
    if not was_answered(error) and connection.dialect.name != "sqlite" and not connection.invalidated:
        connection.invalidate()


def find_spoiled(session: Session) -> DBAPIError | None:
    """Ask PostgreSQL whether a failed statement has spoiled the transaction; returns its answer.

    It would answer ``COMMIT`` with ``ROLLBACK`` and no error, and no driver says so. Within a greenlet.
    """
    for connection in connections_of(session):
        if connection.dialect.name == "postgresql" and connection.in_transaction():
            try:
                connection.exec_driver_sql("SELECT 1")
            except DBAPIError as error:
                if sqlstate(error) != IN_FAILED_TRANSACTION:
                    raise
                return error
    return None


def was_refused(connection: Connection) -> bool:
    """Whether a COMMIT on it has failed by the server's own word."""
    return connection in _refused


def forget_refusal(connection: Connection) -> None:
    """A COMMIT is about to be sent."""
    _refused.discard(connection)


def has_vanished(session: Session) -> bool:
    """Whether a transaction that SQLAlchemy has begun is over for the driver, as far as that can tell."""
    return is_undecided(session) and any(map(_is_over, connections_of(session)))


def _is_over(connection: Connection) -> bool:
    if connection.invalidated:
        return False
    if not connection.in_transaction():
        return True
    checked_out: Any = connection.connection
    driver = checked_out.driver_connection
    if connection.dialect.driver == "asyncpg":
        begun = getattr(checked_out.dbapi_connection, "_transaction", None)
        return begun is not None and not driver.is_closed() and not driver.is_in_transaction()
    if connection.dialect.name != "sqlite" or connection._is_autocommit_isolation():  # pyright: ignore[reportPrivateUsage]
        return False
    # Where a listener sends the BEGIN, as in SQLAlchemy's recipe; else sqlite's driver cannot tell.
    is_sent = driver.isolation_level is None and bool(connection.dispatch.begin)
    return is_sent and not driver.in_transaction


def note_failure(connection: Connection) -> None:
    """A statement has failed on it."""
    _failed.add(ref(connection, _failed.discard))


def has_failed_on(connection: Connection) -> bool:
    """Whether a statement failed on it."""
    return ref(connection) in _failed


def has_failed(session: Session) -> bool:
    """Whether a statement failed on one of the session's connections."""
    return bool(_failed) and any(map(has_failed_on, connections_of(session)))


def forgive(session: Session) -> None:
    """Forget the failures: the transaction ends."""
    for connection in connections_of(session):
        _failed.discard(ref(connection))
