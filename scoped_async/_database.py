"""What is asked of a database through SQLAlchemy: connections, their state, and what an error means."""

import asyncio
from typing import Any
from weakref import WeakSet

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from .exceptions import RollbackOnlyError, ScopeError

_IN_FAILED_TRANSACTION = "25P02"
_RETRYABLE = {"40001", "40P01"}
_CONNECTION_LOST = ("08", "57P01", "57P02", "40003")
_failed: "WeakSet[Connection]" = WeakSet()
"""Connections on which a statement failed since their last commit."""


@event.listens_for(Engine, "handle_error")
def _remember(context: ExceptionContext) -> None:
    if context.connection is not None:
        _failed.add(context.connection)


def connections_of(session: Session) -> list[Connection]:
    """The connections that the session has checked out for its transaction."""
    transaction = session.get_transaction()
    if transaction is None:
        return []
    # SQLAlchemy has no public list of them before 2.1; each stands there twice, with its engine as the key too.
    return list({entry[0]: None for entry in transaction._connections.values()})


def terminate(session: Session) -> None:
    """Close the connections at once and give their places in the pool back; awaits nothing.

    Outside of a greenlet SQLAlchemy terminates a connection without waiting for the server.
    """
    for connection in connections_of(session):
        try:
            connection.invalidate()
        except Exception:  # closed already, or a driver that cannot do without waiting
            continue


def find_spoiled(session: Session) -> DBAPIError | None:
    """Ask PostgreSQL whether a failed statement has spoiled the transaction; returns its answer.

    It would answer ``COMMIT`` with ``ROLLBACK`` and no error, and no driver says so. Within a greenlet.
    """
    for connection in connections_of(session):
        if connection.dialect.name == "postgresql" and connection.in_transaction():
            try:
                connection.exec_driver_sql("SELECT 1")
            except DBAPIError as error:
                if sqlstate(error) != _IN_FAILED_TRANSACTION:
                    raise
                return error
    return None


def has_failed(session: Session) -> bool:
    """Whether a statement failed on one of the session's connections."""
    return any(connection in _failed for connection in connections_of(session))


def forgive(session: Session) -> None:
    """Forget the failures: the transaction ends."""
    for connection in connections_of(session):
        _failed.discard(connection)


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a database error, where the driver tells."""
    original = getattr(error, "orig", None)
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return state if isinstance(state, str) else None


def was_answered(error: BaseException) -> bool:
    """Whether a failed COMMIT failed by the server's own word, so that the connection is in order."""
    state = sqlstate(error)
    return state is not None and not state.startswith(_CONNECTION_LOST)


def is_unknown(error: BaseException) -> bool:
    """Whether what failed was the COMMIT itself, without an answer: it may have happened."""
    if isinstance(error, DBAPIError):
        # SQLAlchemy gives no statement to what is not one: BEGIN, COMMIT, ROLLBACK.
        lost = error.connection_invalidated or (sqlstate(error) or "").startswith(_CONNECTION_LOST)
        return error.statement is None and lost
    return isinstance(error, OSError | TimeoutError | asyncio.CancelledError)


def is_retryable(exc: BaseException) -> bool:
    """Whether running the whole unit of work again may succeed.

    True for a serialization failure (SQLSTATE 40001), a deadlock (40P01), and a connection lost before
    anything was sent to commit; also behind a `RollbackOnlyError`, and for a group all of whose errors are.
    Never where the outcome of a commit is unknown. Use it with a retry library above the scope:
    ``@stamina.retry(on=is_retryable)`` over ``@scope(commit=True)``.
    """
    if isinstance(exc, BaseExceptionGroup):
        return all(is_retryable(error) for error in exc.exceptions)
    if isinstance(exc, RollbackOnlyError):
        return exc.__cause__ is not None and is_retryable(exc.__cause__)
    if not isinstance(exc, DBAPIError) or is_unknown(exc):
        return False
    state = sqlstate(exc) or ""
    return state in _RETRYABLE or exc.connection_invalidated or state.startswith(_CONNECTION_LOST)


def refuse_broken_savepoints(session: Session) -> None:
    """Raise `ScopeError` on sqlite where the driver emits no BEGIN, so that a savepoint isolates nothing."""
    for connection in connections_of(session):
        if connection.dialect.name != "sqlite":
            continue
        driver: Any = connection.connection.driver_connection
        driver = getattr(driver, "_conn", driver)  # aiosqlite keeps the one of the standard library there
        begins = driver.isolation_level is None or getattr(driver, "autocommit", None) is False
        if not (begins and driver.in_transaction):
            raise ScopeError(
                "A nested block needs savepoints that isolate, and sqlite's driver emits no BEGIN before a "
                "SAVEPOINT, so what is released would survive the outer rollback. Apply SQLAlchemy's recipe to the "
                'engine: on the "connect" event set `dbapi_connection.isolation_level = None`, on the "begin" event '
                'run `connection.exec_driver_sql("BEGIN")` ("Serializable isolation / Savepoints / Transactional '
                "DDL\" in its sqlite dialect's documentation)."
            )


def wrote_or_locked(session: Session) -> str | None:
    """Why giving the connections back would lose something, or ``None``. Within a greenlet."""
    for connection in connections_of(session):
        if connection.dialect.name != "postgresql":
            return (
                f"{connection.dialect.name} cannot tell whether anything was written. Commit or roll back first, "
                "or use `scope(readonly=True)`"
            )
        wrote, locked = connection.exec_driver_sql(
            "SELECT pg_current_xact_id_if_assigned() IS NOT NULL, EXISTS (SELECT FROM pg_locks "
            "WHERE pid = pg_backend_pid() AND granted AND (locktype = 'advisory' "
            "OR locktype = 'relation' AND mode <> 'AccessShareLock'))"
        ).one()
        if wrote:
            return "something was written or locked in its transaction. Commit or roll back first"
        if locked:
            return "it holds a lock. Release the lock, or commit or roll back first"
    return None


def set_read_only(session: Session, transaction: object, connection: Connection) -> None:
    """The ``after_begin`` hook of a readonly scope's sessions: let PostgreSQL refuse every write."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
