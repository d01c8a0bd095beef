"""isolate: every session of a proxy works in one transaction, which is rolled back at the end."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, overload

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import Session

from ._frame import current
from ._line import Line, lines, outer_transaction
from ._stand_in import check_constraints
from .exceptions import ScopeError
from .session import AsyncScopedSession

AnyProxy = AsyncScopedSession[Any]
Pair = tuple[AnyProxy, AsyncEngine]
_SEVERAL: Any = (list, tuple)
"""Untyped: what is in a list that anybody gave is anything."""


@overload
def isolate(session: AnyProxy, engine: AsyncEngine, /) -> AbstractAsyncContextManager[AsyncConnection]: ...
@overload
def isolate(*pairs: Pair) -> AbstractAsyncContextManager[tuple[AsyncConnection, ...]]: ...
def isolate(*given: Any) -> Any:
    """Roll back, at the end of the block, whatever the sessions of a proxy did in it.

    ``async with isolate(Session, engine) as connection: ...``, or for several
    ``async with isolate((A, engine_a), (B, engine_b)) as (connection_a, connection_b): ...``. Until the block
    is left, every session that the proxy makes, in any scope, task or request, joins one outer transaction on
    one connection per engine, as SQLAlchemy has it under "Joining a Session into an External Transaction"
    (``join_transaction_mode="create_savepoint"``), which is yielded for the test's own statements. Commits,
    rollbacks, callbacks and deferred constraints of PostgreSQL behave as without it, and what one scope has
    committed the next one sees. Within another `isolate` of an engine, it is a savepoint there. A session
    that chooses between several engines gets each that is given, one that has none the first; a
    ``readonly_bind`` that is not given is not used.

    One connection carries one unit of work at a time: `ScopeError` at the first statement of a scope while
    another has work on it, nested or beside; `clone_database` has no such limit. `ScopeError` too at the
    entry when the current scope has a session already (those that other tasks have are not seen), when a
    session would work on an engine that was not given, or in another event loop, when the connection was
    terminated, committed or rolled back, and at the end when a scope still has work on it. `TypeError` for
    anything but pairs of a proxy and its engine.

    .. versionadded:: 0.1
    """
    if _is_pair(given):
        return _isolate_one(given)
    if not given or not all(map(_is_pair, given)):
        raise TypeError(
            "isolate() takes an AsyncScopedSession and its AsyncEngine, `isolate(Session, engine)`, or "
            f"several such pairs, `isolate((A, engine_a), (B, engine_b))`, and not {given!r}."
        )
    return _isolate(given)


def isolate_sessions(given: Any) -> AbstractAsyncContextManager[tuple[AsyncConnection, ...]]:
    """Isolate what the fixture ``scoped_async_sessions`` returned."""
    if not isinstance(given, _SEVERAL) or not given or not all(map(_is_pair, given)):
        raise TypeError(
            "The fixture scoped_async_sessions returns the pairs of an AsyncScopedSession and its "
            f"AsyncEngine, `[(Session, engine)]`, and not {given!r}."
        )
    return _isolate(given)


def _is_pair(given: Any) -> bool:
    return (
        isinstance(given, _SEVERAL)
        and len(given) == 2
        and isinstance(given[0], AsyncScopedSession)
        and isinstance(given[1], AsyncEngine)
    )


@asynccontextmanager
async def _isolate_one(pair: Pair) -> AsyncGenerator[AsyncConnection]:
    async with _isolate([pair]) as (connection,):
        yield connection


@asynccontextmanager
async def _isolate(pairs: Sequence[Pair]) -> AsyncGenerator[tuple[AsyncConnection, ...]]:
    first: dict[AnyProxy, Engine] = {}
    for proxy, engine in pairs:
        first.setdefault(proxy, engine.sync_engine)
        _refuse_older_session(proxy)
    async with AsyncExitStack() as stack:
        for engine in {engine.sync_engine: engine for _, engine in pairs}.values():
            await stack.enter_async_context(outer_transaction(engine))
        for proxy, main in first.items():
            factory = IsolatedFactory(proxy, main)
            stack.callback(_restore, proxy, factory)
            proxy.__dict__["session_factory"] = factory
        yield tuple(lines[engine.sync_engine].connection for _, engine in pairs)


def _restore(proxy: AnyProxy, factory: "IsolatedFactory") -> None:
    factory.ended = True
    current_one: Any = proxy.session_factory
    while isinstance(current_one, IsolatedFactory) and current_one.ended:
        current_one = current_one.factory
    proxy.__dict__["session_factory"] = current_one


def _refuse_older_session(proxy: AnyProxy) -> None:
    if proxy.registry.has():
        raise ScopeError(
            f"isolate() comes too late: {_scope_here()} has its session of {proxy!r} already, whose commits "
            "would stay. Enter isolate() before the scope, or before its session is touched."
        )


def _scope_here() -> str:
    owner = current.get().owner
    if owner is None:  # the factory was called by hand
        return "a session made outside of any scope"
    return f"the scope {owner.name}, opened at {owner.opened_at},"


class IsolatedFactory:
    """Stands in for a proxy's session factory: what it makes works on the isolated connections."""

    def __init__(self, proxy: AnyProxy, main: Engine) -> None:
        self.factory: Callable[..., AsyncSession] = proxy.session_factory
        self.ended = False
        self._main = main
        self._replica = proxy._readonly_bind  # pyright: ignore[reportPrivateUsage]

    def __call__(self, **kw: Any) -> AsyncSession:
        line = lines[self._main]
        replica = self._replica
        if replica is not None and replica.sync_engine not in lines and kw.get("bind") is replica:
            del kw["bind"]
        kw |= {"join_transaction_mode": "create_savepoint", "twophase": False}
        session = self.factory(**kw)
        if session.sync_session.bind is None:
            session.bind, session.sync_session.bind = line.connection, line.sync
        watch(session.sync_session, _scope_here(), line)
        return session

    def __getattr__(self, name: str) -> Any:
        return getattr(self.factory, name)


def watch(session: Session, place: str, main: Line) -> None:
    """Keep ``session`` on isolated connections, one session at a time on each.

    ``place``: whose it is. ``main``: what is there as long as it may work.
    """
    find_bind = session.get_bind

    def get_bind(*args: Any, **kwargs: Any) -> Connection:
        bind = find_bind(*args, **kwargs)
        line = lines.get(bind.engine)
        if main not in lines.values():
            raise ScopeError(
                f"isolate() has been left, and {place} goes on with the session that was made within. Leave "
                "every scope within the block, and await the tasks that open them."
            )
        if line is None:
            raise ScopeError(
                f"isolate() was not given {bind.engine!r}, on which {place} is about to work, so that would "
                "stay. Give it too: `isolate((Session, engine), (Session, other_engine))`; or where the test "
                "has an engine of its own, let the sessions have it: `Session.configure(bind=engine)`."
            )
        return line.lend(session, place)

    session.__dict__["get_bind"] = get_bind
    event.listen(session, "after_begin", _note_begin)
    event.listen(session, "before_commit", check_constraints)
    event.listen(session, "after_transaction_end", _forget)


def _note_begin(session: Session, transaction: Any, connection: Connection) -> None:
    if transaction.parent is None:
        lines[connection.engine].note_begin()


def _forget(session: Session, transaction: Any) -> None:
    if transaction.parent is None:
        for line in lines.values():
            line.forget(session)
