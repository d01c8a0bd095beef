"""What an error of a database means: whether it was answered, what became of the work, and another try."""

import asyncio
from typing import cast

from sqlalchemy.exc import DBAPIError, InterfaceError

from ._cleanup import is_marked_committed
from .exceptions import RollbackOnlyError

IN_FAILED_TRANSACTION = "25P02"
_RETRYABLE = {"40001", "40P01"}
_CONNECTION_LOST = ("08", "57P01", "57P02", "40003")


def sqlstate(error: BaseException) -> str | None:
    """The SQLSTATE of a database error, where the driver tells."""
    original = getattr(error, "orig", None) or error  # a fetch from a stream raises the driver's own
    state = getattr(original, "sqlstate", None) or getattr(original, "pgcode", None)
    return state if isinstance(state, str) else None


def was_answered(error: BaseException) -> bool:
    """Whether a failed COMMIT failed by the server's own word, so that the connection is in order."""
    state = sqlstate(error)
    return state is not None and not state.startswith(_CONNECTION_LOST)


def is_unknown(error: BaseException) -> bool:
    """Whether what failed was the COMMIT itself, without an answer: it may have happened."""
    if isinstance(error, DBAPIError):
        driver_error = error.orig.__cause__ if error.orig is not None else None
        if isinstance(error, InterfaceError) and type(driver_error).__module__.startswith("asyncpg."):
            return False  # asyncpg raises it before it sends anything: it knows that the connection is closed
        # SQLAlchemy gives no statement to what is not one: BEGIN, COMMIT, ROLLBACK.
        lost = error.connection_invalidated or (sqlstate(error) or "").startswith(_CONNECTION_LOST)
        return error.statement is None and lost
    return isinstance(error, OSError | TimeoutError | asyncio.CancelledError)


def is_retryable(exc: BaseException) -> bool:
    """Whether running the whole unit of work again may succeed.

    ``exc``: what came out of the unit. True for a serialization failure (SQLSTATE 40001), a deadlock (40P01),
    and a connection lost before anything was sent to commit; also behind a `RollbackOnlyError`, and for a
    group all of whose errors are. Never where the outcome of a commit is unknown, or part of the unit was
    committed. Use it with a retry library above the scope: ``@stamina.retry(on=is_retryable)`` over
    ``@scope(commit=True)``.

    .. versionadded:: 0.1
    """
    if is_marked_committed(exc):
        return False
    if isinstance(exc, BaseExceptionGroup):
        errors = cast("BaseExceptionGroup[BaseException]", exc).exceptions
        return all(is_retryable(error) for error in errors)
    if isinstance(exc, RollbackOnlyError):
        return exc.__cause__ is not None and is_retryable(exc.__cause__)
    if not isinstance(exc, DBAPIError) or is_unknown(exc):
        return False
    state = sqlstate(exc) or ""
    return state in _RETRYABLE or exc.connection_invalidated or state.startswith(_CONNECTION_LOST)
