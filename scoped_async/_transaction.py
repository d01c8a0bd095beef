"""How the transaction of a session ends but by a commit: rolled back, given back, closed, or cut off."""

import weakref
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.exc import IllegalStateChangeError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, SessionTransaction, SessionTransactionOrigin
from sqlalchemy.orm.session import _SessionCloseState  # pyright: ignore[reportPrivateUsage]

from ._database import (
    connections_of,
    has_changes,
    set_read_only,
    takes_part,
    terminate,
    terminate_busy,
)
from ._frame import Owner
from ._watched import WatchedSession
from .exceptions import ReadOnlyScopeError, ScopeCleanupError, ScopeClosedError

_CLOSE_IS_RESET = _SessionCloseState.CLOSE_IS_RESET
_close, _close_sync = AsyncSession.close, Session.close


class HeldTransaction(WatchedSession):
    """An `AsyncSession` in one scope, as far as the end of its transactions goes."""

    doubtful = False
    """Whether the driver's own connection was within reach, where errors are swallowed unseen."""
    begun: SessionTransaction | None = None
    """The transaction of the last ``begin()``."""
    failure: BaseException | None
    """What the last operation that failed in this transaction raised."""
    leaving: "Sequence[Connection]" = ()
    """Connections that are being given back, of which their session knows nothing any more meanwhile."""
    streams: "Sequence[tuple[weakref.ref[object], Any]]" = ()
    """Of each handed out in this transaction what lives as long as it does, and the result that it reads."""

    def __init__(self, session: AsyncSession, owner: Owner, readonly: bool) -> None:
        if not isinstance(getattr(session, "sync_session", None), Session):
            raise TypeError(
                f"{session!r} is no AsyncSession. Give AsyncScopedSession an async_sessionmaker, or a "
                "function that is not async and returns an AsyncSession."
            )
        self.object = session
        self.owner = owner
        self.loop = owner.loop
        self.busy = self.released = self.failure = None
        self.readonly = readonly
        if readonly:
            self.listens = True
            event.listen(session.sync_session, "after_begin", set_read_only)
            event.listen(session.sync_session, "before_flush", self.refuse_flush)

    @property
    def label(self) -> str:
        bind = self.object.sync_session.bind
        where = "" if bind is None else f" on {bind.engine.url!r}"
        return f"the session of {self.owner.name}{where}"

    @property
    def in_transaction(self) -> bool:
        # As in_transaction(), for less: each end of a scope asks several times.
        return not self.forgotten and self.object.sync_session._transaction is not None  # pyright: ignore[reportPrivateUsage]

    @property
    def rolls_back_at_close(self) -> bool:
        return not takes_part(self.object.sync_session)

    @property
    def is_idle(self) -> bool:
        session = self.object
        return (
            self.busy is None
            and session.sync_session._transaction is None  # pyright: ignore[reportPrivateUsage]
            and type(session).close is _close
        )

    def is_spent(self) -> bool:
        # Nothing has happened in it, so close() would do nothing, if it is the one that everybody has.
        session = self.object
        sync_session = session.sync_session
        return (
            sync_session._transaction is None  # pyright: ignore[reportPrivateUsage]
            and not sync_session._new  # pyright: ignore[reportPrivateUsage]
            and not sync_session.identity_map._dict  # pyright: ignore[reportPrivateUsage]
            and sync_session._close_state is _CLOSE_IS_RESET  # pyright: ignore[reportPrivateUsage]
            and self.busy is None
            and not self.listens
            and type(session).close is _close
            and type(sync_session).close is _close_sync
        )

    @property
    def commits_at_end(self) -> bool:
        session = self.object.sync_session
        transaction = session.get_transaction()
        return (
            transaction is not None
            and transaction.origin is SessionTransactionOrigin.BEGIN
            # Nothing public tells a begin() with a block from one without.
            and session._trans_context_manager is not None  # pyright: ignore[reportPrivateUsage]
        )

    # -- how it ends

    def roll_back(self) -> Coroutine[Any, Any, None]:
        return self.cutting_off(self.object.rollback)

    async def lose(self, *, failed: bool) -> None:
        if failed and takes_part(self.object.sync_session):
            await self.roll_back()  # of which the others who take part hear by their own commit
        else:
            # As close() does: what was loaded stays loaded, where rollback() would expire it.
            await self.cutting_off(self.give_back)
        self.object.expunge_all()

    async def give_back(self) -> None:
        # The transaction's own close() rolls back and gives the connection back, and, unlike the
        # session's rollback() and commit(), expires nothing.
        def close(session: Session) -> None:
            while (transaction := session.get_nested_transaction() or session.get_transaction()) is not None:
                transaction.close()

        ending, self.ending = self.ending, True
        leaving = connections_of(self.object.sync_session)
        self.hear_out()
        try:
            await self.object.run_sync(close)
        except BaseException:
            terminate(leaving)  # of which the session knows nothing any more
            raise
        finally:
            self.ending = ending
        self.begin_anew()

    def end_by(self, name: str) -> Coroutine[Any, Any, None]:
        """End the transaction by one of the session's own methods."""
        return self.cutting_off(getattr(self.object, name))

    def close(self) -> Coroutine[Any, Any, None]:
        return self.cutting_off(self.object.close)

    async def cutting_off(self, end: Callable[[], Awaitable[None]]) -> None:
        """Await ``end``, and hand no connection back on which another task still runs something.

        That task has the real session itself.
        """
        ending, self.ending = self.ending, True
        self.leaving = connections_of(self.object.sync_session)
        self.hear_out()
        cut_off = terminate_busy(self.leaving)
        try:
            await end()
        except IllegalStateChangeError as error:  # the other task is about to connect
            if not self._is_sealed:  # else it was reported before
                raise self.still_in_use() from error
        except BaseException:
            terminate(self.leaving)  # of which the session knows nothing any more
            raise
        finally:
            self.leaving = ()
            self.ending = ending
            self.begin_anew()
        if cut_off:
            raise self.still_in_use()

    def still_in_use(self) -> ScopeCleanupError:
        return ScopeCleanupError(
            f"Another task still used {self.label} itself, as Session() or connection() returned it, which "
            f"is not waited for: what ran was cut off. Await that task before the scope, opened at "
            f"{self.owner.opened_at}, is left or ended, or give it one of its own: `async with scope(): ...`."
        )

    def close_in_place(self) -> None:
        self.object.sync_session.close()

    def let_go(self) -> None:
        if not self.listens:
            return
        self.unwatch()
        if self.readonly:
            event.remove(self.object.sync_session, "after_begin", set_read_only)
            event.remove(self.object.sync_session, "before_flush", self.refuse_flush)

    def abort(self) -> None:
        session = self.object.sync_session
        terminate([*connections_of(session), *self.leaving])
        if not self._is_sealed:
            event.listen(session, "after_begin", self._refuse_late)

    @property
    def _is_sealed(self) -> bool:
        return event.contains(self.object.sync_session, "after_begin", self._refuse_late)

    def _refuse_late(self, _: Session, __: SessionTransaction, connection: Connection) -> None:
        """Hand back what somebody who waited with the real session gets when its scope has ended."""
        if self.owner.here().unit_in_use() is None:
            connection.close()
            raise ScopeClosedError(
                f"{self.label} was still in use when its scope, opened at {self.owner.opened_at}, ended. "
                "Open a scope of your own: `async with scope(): ...`."
            )

    def begin_anew(self) -> None:
        """Forget what belongs to the transaction that has ended."""
        self.failure = None
        self.doubtful = False
        self.streams = ()

    # -- readonly

    def refuse_flush(self, session: Session, *_: Any) -> None:
        """The ``before_flush`` hook of a readonly scope's sessions."""
        if has_changes(session):
            raise ReadOnlyScopeError(
                f"The scope {self.owner.name}, opened at {self.owner.opened_at}, is readonly, and there are "
                "changes to flush. Write in a scope of its own: `async with scope(commit=True): ...`."
            )
