"""What PostgreSQL does at a COMMIT, or tells of a transaction, for a savepoint that stands in for one."""

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from ._database import WROTE_OR_LOCKED, connections_of
from ._database_errors import IN_FAILED_TRANSACTION, sqlstate

OURS = "/* scoped_async */ "
"""Begins what would not be sent without isolate()."""
_LOCKS = (
    "SELECT count(*) FILTER (WHERE locktype = 'transactionid'), count(*) FILTER (WHERE locktype = 'advisory' "
    "OR locktype = 'relation' AND mode <> 'AccessShareLock') "
    "FROM pg_locks WHERE pid = pg_backend_pid() AND granted"
)
"""A savepoint in which something is written has a transaction id of its own, and a lock on it."""


def check_constraints(session: Session) -> None:
    """Check deferred constraints where a COMMIT would, and keep them deferred."""
    if session.in_nested_transaction():
        return
    session.flush()
    for connection in connections_of(session):
        if connection.dialect.name != "postgresql":
            continue
        try:
            connection.exec_driver_sql("SAVEPOINT scoped_async_commit")
        except DBAPIError as error:
            if sqlstate(error) == IN_FAILED_TRANSACTION:
                return  # the commit is about to fail for that
            raise
        try:
            connection.exec_driver_sql("SET CONSTRAINTS ALL IMMEDIATE")
        finally:
            connection.exec_driver_sql("ROLLBACK TO SAVEPOINT scoped_async_commit")


def count_locks(connection: Connection) -> tuple[int, int]:
    """How many ids of transactions, and locks that one might want to keep, were there before."""
    if connection.dialect.name != "postgresql":
        return 0, 0
    ids, others = connection.exec_driver_sql(OURS + _LOCKS).one()
    return ids, others


def since(before: tuple[int, int], statement: str) -> str:
    """``statement``; when it asks what the transaction wrote or locked, then since there was ``before``."""
    if statement != WROTE_OR_LOCKED:
        return statement
    ids, others = before
    return f"SELECT ids > {ids}, others > {others} FROM ({_LOCKS}) AS locks (ids, others)"
