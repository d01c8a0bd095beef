"""What is asked of a database through SQLAlchemy: its connections, and what state they are in."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, UnboundExecutionError
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.orm.session import SessionTransactionState

from ._database_errors import IN_FAILED_TRANSACTION, sqlstate
from .exceptions import ReadOnlyScopeError, ScopeError

WROTE_OR_LOCKED = (
    "SELECT pg_current_xact_id_if_assigned() IS NOT NULL, EXISTS (SELECT FROM pg_locks "
    "WHERE pid = pg_backend_pid() AND granted AND (locktype = 'advisory' "
    "OR locktype = 'relation' AND mode <> 'AccessShareLock'))"
)
_first: "Callable[[tuple[Any, ...]], Connection]" = itemgetter(0)


def connections_of(session: Session) -> list[Connection]:
    """The connections that the session has checked out for its transaction."""
    transaction = session.get_transaction()
    if transaction is None:
        return []
    # There is no public list of them before SQLAlchemy 2.1. Each stands there twice, under its engine too.
    entries = transaction._connections.values()  # pyright: ignore[reportPrivateUsage]
    return list(dict.fromkeys(map(_first, entries)))


def takes_part(session: Session) -> bool:
    """Whether it works in a transaction that is another's to end: of the connection that it is bound to."""
    transaction = session.get_transaction()
    entries = () if transaction is None else transaction._connections.values()  # pyright: ignore[reportPrivateUsage]
    return any(not ours_to_end for _, _, ours_to_end, _ in entries)


def terminate(connections: Iterable[Connection]) -> None:
    """Close the connections at once and give their places in the pool back; awaits nothing.

    Outside of a greenlet SQLAlchemy terminates a connection without waiting for the server.
    """
    for connection in connections:
        try:
            connection.invalidate()
        except Exception:  # closed already, or a driver that cannot do without waiting
            continue


def terminate_busy(connections: Iterable[Connection]) -> bool:
    """Terminate those on which another task still runs something; returns whether there were any.

    SQLAlchemy would hand such a one back as it is: its rollback sends nothing in AUTOCOMMIT, and while
    the BEGIN of a first statement is under way. sqlite's driver puts the rollback in a queue behind the
    statement.
    """
    found = False
    for connection in connections:
        checked_out = connection._dbapi_connection  # pyright: ignore[reportPrivateUsage]
        if checked_out is None:  # closed or invalidated
            continue
        # The lock that SQLAlchemy's asyncio drivers hold during a statement; others have none.
        lock = getattr(checked_out.dbapi_connection, "_execute_mutex", None)
        if lock is not None and lock.locked() and connection.dialect.name != "sqlite":
            connection.invalidate()
            found = True
    return found


def begins(driver: Any) -> bool:
    """Whether the BEGIN of SQLAlchemy reaches sqlite, which its driver holds back if not told otherwise."""
    driver = getattr(driver, "_conn", driver)  # aiosqlite keeps the one of the standard library there
    if driver.isolation_level is None:
        return True
    with suppress(Exception):  # one in memory tells the next in its own thread only
        return getattr(driver, "autocommit", None) is False
    return False


def has_changes(session: Session) -> bool:
    """Whether a flush would have something to send."""
    return bool(session.new or session.deleted) or any(session.is_modified(each) for each in session.dirty)


def has_ended(transaction: SessionTransaction) -> bool:
    """Whether it is none of those that are open in its session."""
    session = transaction.session
    open_one = session.get_nested_transaction() or session.get_transaction()
    while open_one is not None and open_one is not transaction:
        open_one = open_one.parent
    return open_one is None


def is_undecided(session: Session) -> bool:
    """Whether it is in a transaction that is neither committed, prepared in the database, nor spoiled."""
    transaction = session.get_transaction()
    state = None if transaction is None else transaction._state  # pyright: ignore[reportPrivateUsage]
    is_prepared = state is SessionTransactionState.PREPARED and not session.twophase
    return state is SessionTransactionState.ACTIVE or is_prepared


def is_committed(transaction: SessionTransaction) -> bool:
    """Whether its COMMIT was done, and a hook after that has raised, so that it was not closed yet."""
    return transaction._state is SessionTransactionState.COMMITTED  # pyright: ignore[reportPrivateUsage]


def has_been_read(result: Any) -> bool:
    """Whether the result of a stream was closed, or read to its end, which ``closed`` does not tell."""
    return bool(result.closed or result._soft_closed)


def has_cursor(result: Any) -> bool:
    """Whether it has yet to fetch rows: the ORM fetches all at once, if not told otherwise."""
    raw: Any = getattr(result, "raw", None)
    return not (has_been_read(result) or (raw is not None and raw._soft_closed))


def set_savepoint(session: Session) -> SessionTransaction:
    """Set a savepoint on every connection of the session. Within a greenlet.

    Raises `ScopeError` where one would not isolate.
    """
    session.flush()
    if not connections_of(session):
        with suppress(UnboundExecutionError):  # no default bind: it gets its connections when they are used
            session.connection()
    refuse_broken_savepoints(session)
    transaction = session.begin_nested()
    try:
        for connection in connections_of(session):  # else the first statement on each would set it
            session.connection(bind_arguments={"bind": connection.engine})
    except BaseException:
        transaction.rollback()
        raise
    return transaction


def refuse_broken_savepoints(session: Session) -> None:
    """Raise `ScopeError` on sqlite where the driver emits no BEGIN, so that a savepoint isolates nothing."""
    for connection in connections_of(session):
        if connection.dialect.name != "sqlite":
            continue
        driver: Any = connection.connection.driver_connection
        if not (begins(driver) and driver.in_transaction):
            raise ScopeError(
                "A nested block needs savepoints that isolate, and sqlite's driver emits no BEGIN before a "
                "SAVEPOINT, so what is released would survive the outer rollback. Apply SQLAlchemy's recipe "
                'to the engine: on the "connect" event set `dbapi_connection.isolation_level = None`, on the '
                '"begin" event run `connection.exec_driver_sql("BEGIN")` ("Serializable isolation / '
                "Savepoints / Transactional DDL\" in its sqlite dialect's documentation)."
            )


def wrote_or_locked(session: Session, *, readonly: bool) -> str | None:
    """Why giving the connections back would lose something, or ``None``. Within a greenlet."""
    for connection in connections_of(session):
        if connection.dialect.name != "postgresql":
            if readonly:
                continue
            return (
                f"{connection.dialect.name} cannot tell whether anything was written. Commit or roll back "
                "first, or use `scope(readonly=True)`"
            )
        if connection.invalidated:
            return "its connection was lost. Roll back first"
        try:
            wrote, locked = connection.exec_driver_sql(WROTE_OR_LOCKED).one()
        except DBAPIError as error:
            if sqlstate(error) != IN_FAILED_TRANSACTION:
                raise
            return "a statement in its transaction failed. Roll back first"
        if wrote:
            return "something was written or locked in its transaction. Commit or roll back first"
        if locked:
            return "it holds a lock. Release the lock, or commit or roll back first"
    return None


def set_read_only(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    """The ``after_begin`` hook of a readonly scope's sessions: let PostgreSQL refuse every write."""
    if connection.dialect.name == "postgresql":
        driver_connection: Any = connection.connection.dbapi_connection
        if connection.dialect.detect_autocommit_setting(driver_connection):
            _take_back(transaction, connection)
            raise ReadOnlyScopeError(
                f"A readonly scope cannot work in AUTOCOMMIT, as {connection.engine!r} is set to: there is "
                "no transaction that could be READ ONLY. Give AsyncScopedSession a readonly_bind without "
                "that isolation level."
            )
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")


def _take_back(transaction: SessionTransaction, connection: Connection) -> None:
    """Let the next statement of ``transaction`` begin anew, and run the hook once more."""
    connections = transaction._connections  # pyright: ignore[reportPrivateUsage]
    del connections[connection.engine]
    _, begun, ours_to_end, ours_to_close = connections.pop(connection)
    if ours_to_end:
        begun.close()
    if ours_to_close:
        connection.close()
