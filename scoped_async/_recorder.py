"""recorder: what was sent to a database, and how long a connection was held for it, by scope."""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary, ref

from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from ._frame import Owner, current
from ._line import is_isolated
from ._stand_in import OURS

_CONTROL = ("begin", "commit", "rollback", "savepoint", "release", "set transaction", "set constraints", OURS)


@dataclass(frozen=True)
class Place:
    """The scope in which something happened."""

    name: str
    opened_at: str
    scope: "ref[Owner]" = field(repr=False)


@dataclass
class Statement:
    """One statement, also for many rows (``executemany``); not what only controls the transaction.

    .. versionadded:: 0.1
    """

    sql: str
    place: Place | None
    seconds: float = 0.0
    failed: bool = False


@dataclass
class End:
    """The end of a transaction."""

    committed: bool
    place: Place | None


@dataclass
class HeldConnection:
    """A connection, from its checkout to its return; under `isolate` while a session has work on it.

    .. versionadded:: 0.1
    """

    place: Place | None
    seconds: float = 0.0
    transactions: int = 0
    """How many ended meanwhile."""
    returned: bool = False


@dataclass
class Recording:
    """What happened, in order. ``print()`` shows it as text, one scope after the other.

    .. versionadded:: 0.1
    """

    statements: list[Statement] = field(default_factory=list[Statement])
    ends: list[End] = field(default_factory=list[End])
    connections: list[HeldConnection] = field(default_factory=list[HeldConnection])

    @property
    def commits(self) -> int:
        """How many transactions were committed; one whose COMMIT failed was not."""
        return sum(end.committed for end in self.ends)

    @property
    def rollbacks(self) -> int:
        """How many transactions were rolled back."""
        return sum(not end.committed for end in self.ends)

    def of(self, scope: Owner | str | None) -> "Recording":
        """What happened in ``scope``: in that one, in all of a name, or (``None``) outside of any.

        Of a name that no scope had there is nothing, as of one whose scopes did nothing. Raises `TypeError`
        for what is no scope.
        """
        if not isinstance(scope, Owner | str | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"of() takes a scope, the name of some, or None, and not {scope!r}.")

        def belongs(place: Place | None) -> bool:
            if place is None or scope is None:
                return place is None and scope is None
            return place.name == scope if isinstance(scope, str) else place.scope() is scope

        return Recording(
            [each for each in self.statements if belongs(each.place)],
            [each for each in self.ends if belongs(each.place)],
            [each for each in self.connections if belongs(each.place)],
        )

    def __str__(self) -> str:
        places = [each.place for part in (self.statements, self.ends, self.connections) for each in part]
        names = dict.fromkeys(place.name if place else None for place in places)
        return "\n".join(line for name in names for line in _lines_of(name, self.of(name)))


def _lines_of(name: str | None, part: Recording) -> Iterator[str]:
    held = sum(each.seconds for each in part.connections)
    yield (
        f"{name or 'outside of any scope'}: {len(part.statements)} statements, {part.commits} commits, "
        f"{part.rollbacks} rollbacks, {len(part.connections)} connections held for {held * 1000:.1f} ms"
    )
    for statement in part.statements:
        failed = ", failed" if statement.failed else ""
        yield f"  {' '.join(statement.sql.split())} ({statement.seconds * 1000:.1f} ms{failed})"


@contextmanager
def recorder(*engines: AsyncEngine) -> Generator[Recording]:
    """Record what happens on the engines during the block: ``with recorder(engine) as recorded: ...``.

    Yields the `Recording`. ``recorded.statements``, ``.commits``, ``.rollbacks`` and ``.connections`` grow as
    it happens, and ``recorded.of(scope)`` is the part of one. Works under `isolate` too, where a session's
    work on the one connection counts as a connection held, and its end as a commit or rollback. It stands on
    SQLAlchemy's events, so it costs nothing while there is none. Raises `TypeError` for what is no
    ``AsyncEngine``, and for nothing.

    .. versionadded:: 0.1
    """
    wrong = [each for each in engines if not isinstance(each, AsyncEngine)]  # pyright: ignore[reportUnnecessaryIsInstance]
    if wrong or not engines:
        raise TypeError(f"recorder() takes async engines, `recorder(engine)`, and not {engines!r}.")
    recording = Recording()
    writer = _Writer(recording, {engine.sync_engine for engine in engines})
    with ExitStack() as stack:
        for engine in writer.engines:
            for name in _EVENTS:
                _listen(stack, engine, name, getattr(writer, name))
        for name in _SESSION_EVENTS:
            _listen(stack, Session, name, getattr(writer, name))
        try:
            yield recording
        finally:
            writer.close()


def _listen(stack: ExitStack, target: Any, name: str, function: Callable[..., None]) -> None:
    event.listen(target, name, function)
    stack.callback(event.remove, target, name, function)


_EVENTS = ("before_cursor_execute", "after_cursor_execute", "handle_error", "begin", "commit", "rollback",
           "checkout", "checkin")  # fmt: skip
_SESSION_EVENTS = ("after_begin", "after_commit", "after_transaction_end")


def _place() -> Place | None:
    owner = current.get().owner
    return None if owner is None else Place(owner.name, owner.opened_at, ref(owner))


class _Writer:
    """Listens, under the names of the events."""

    def __init__(self, recording: Recording, engines: set[Engine]) -> None:
        self.recording = recording
        self.engines = engines
        self.running: dict[Connection, Statement] = {}
        self.held: dict[object, HeldConnection] = {}
        """By connection record of the pool, or by session on an isolated connection."""
        self.begun = WeakKeyDictionary[Connection, HeldConnection | None]()
        """In a transaction; at its end the connection may be lost, and could not be asked for its record."""
        self.committing: dict[Connection, End] = {}
        self.committed: set[Session] = set()

    def close(self) -> None:
        for held in self.held.values():
            held.seconds += perf_counter()

    # What the engines tell.

    def before_cursor_execute(self, connection: Connection, _: object, statement: str, *__: object) -> None:
        if statement.lstrip().lower().startswith(_CONTROL):
            return
        started = Statement(statement, _place(), -perf_counter())
        self.recording.statements.append(started)
        self.running[connection] = started

    def after_cursor_execute(self, connection: Connection, *_: object) -> None:
        if (statement := self.running.pop(connection, None)) is not None:
            statement.seconds += perf_counter()

    def handle_error(self, context: ExceptionContext) -> None:
        connection = context.connection
        if connection is None:
            return
        if (statement := self.running.pop(connection, None)) is not None:
            statement.seconds += perf_counter()
            statement.failed = True
        elif context.statement is None and (end := self.committing.pop(connection, None)) is not None:
            end.committed = False

    def begin(self, connection: Connection) -> None:
        self.begun[connection] = self.held.get(connection.connection._connection_record)

    def commit(self, connection: Connection) -> None:
        self.committing[connection] = self._end(self.begun.pop(connection, None), committed=True)

    def rollback(self, connection: Connection) -> None:
        if not is_isolated(connection):
            self._end(self.begun.pop(connection, None), committed=False)

    # What their pools tell.

    def checkout(self, driver: object, record: object, *_: object) -> None:
        self._take(record)

    def checkin(self, driver: object, record: object) -> None:
        self._return(record)

    # What sessions on isolated connections tell.

    def after_begin(self, session: Session, transaction: object, connection: Connection) -> None:
        if connection.engine in self.engines and is_isolated(connection) and session not in self.held:
            self._take(session)

    def after_commit(self, session: Session) -> None:
        if session in self.held and not session.in_nested_transaction():
            self.committed.add(session)

    def after_transaction_end(self, session: Session, transaction: Any) -> None:
        if session in self.held and transaction.parent is None:
            self._end(self.held[session], committed=session in self.committed)
            self.committed.discard(session)
            self._return(session)

    def _take(self, key: object) -> None:
        held = HeldConnection(_place(), -perf_counter())
        self.held[key] = held
        self.recording.connections.append(held)

    def _end(self, held: HeldConnection | None, *, committed: bool) -> End:
        end = End(committed, _place())
        self.recording.ends.append(end)
        if held is not None:
            held.transactions += 1
        return end

    def _return(self, key: object) -> None:
        if (held := self.held.pop(key, None)) is not None:
            held.seconds += perf_counter()
            held.returned = True
