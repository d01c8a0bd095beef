"""The one connection of an isolated engine: its outer transaction, and whose session has work on it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from sqlalchemy import Connection, Engine, event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import Session

from ._cleanup import add_notes, to_its_end
from ._running import running_loop
from ._stand_in import count_locks, since
from ._statements import ends_transaction
from .exceptions import ScopeError

_CLONE = "give the test a database of its own: `async with clone_database(url, template=...) as url: ...`"

lines: "dict[Engine, Line]" = {}
"""What is isolated just now."""


def is_isolated(connection: Connection) -> bool:
    """Whether sessions work on ``connection`` by savepoints instead of transactions."""
    line = lines.get(connection.engine)
    return line is not None and line.sync is connection


class Line:
    """One isolated connection, and which session has work on it."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection
        self.loop = running_loop()
        self.depth = 0
        self._occupant: tuple[Session, str] | None = None
        self._asking: tuple[Session, str] | None = None
        self._broken = ""
        self._locks = (0, 0)
        event.listen(self.sync, "before_cursor_execute", self._translate, retval=True)
        event.listen(self.sync, "savepoint", self._before_savepoint)
        event.listen(self.sync, "commit", self._refuse_commit)
        event.listen(self.sync, "rollback", self._note_rollback)
        self._options = self.sync._execution_options  # pyright: ignore[reportPrivateUsage]

    @property
    def sync(self) -> Connection:
        connection = self.connection.sync_connection
        assert connection is not None
        return connection

    @property
    def occupant(self) -> str | None:
        """Whose work is open on it."""
        return self._occupant[1] if self._occupant and self._occupant[0].in_transaction() else None

    @property
    def broken(self) -> str:
        """Why nothing can be done on it any more; empty when that is not so."""
        if self.sync.invalidated:
            return "was terminated, by a cancelled statement, a close_timeout or the server"
        if self.sync.closed:
            return "was closed by hand"
        return self._broken

    def refuse_other_loop(self, who: str) -> None:
        """Refuse what runs in another event loop than the connection, where its use may end the process."""
        if running_loop() is not self.loop:
            raise ScopeError(
                f"isolate() was entered in one event loop, and {who} runs in another event loop or in none, "
                "where its connection is of no use: that of a fixture or test with another loop scope, or of "
                f"an application that a test client runs in a thread. Let both have one loop, or {_CLONE}."
            )

    def lend(self, session: Session, place: str) -> Connection:
        """The connection, for a session that may be about to begin."""
        self.refuse_other_loop(place)
        if self.broken:
            raise ScopeError(
                f"The connection of isolate() {self.broken}, and the transaction of the test went with it, "
                f"so {place} cannot go on. Where that belongs to the test, {_CLONE}."
            )
        # What follows in SQLAlchemy, up to the event of the savepoint, awaits nothing.
        self._asking = (session, place)
        return self.sync

    def note_begin(self) -> None:
        """The session's savepoint is set."""
        self._locks = count_locks(self.sync)

    def forget(self, session: Session) -> None:
        """The session's transaction has ended."""
        if self._occupant is not None and self._occupant[0] is session:
            self._occupant = None
            # What a session sets there is for its transaction; SQLAlchemy can only add to it.
            self.sync._execution_options = self._options  # pyright: ignore[reportPrivateUsage]

    def _translate(
        self, _: object, __: object, statement: str, parameters: Any, *___: object
    ) -> tuple[str, Any]:
        if ends_transaction(statement):
            raise ScopeError(
                "COMMIT or ROLLBACK sent as a statement would end the transaction of the test within "
                f"isolate(). Use Session.commit() or Session.rollback(), or {_CLONE}."
            )
        return since(self._locks, statement), parameters

    def _before_savepoint(self, *_: object) -> None:
        asking, self._asking = self._asking, None
        if asking is None:  # the test's own, or ours
            return
        if (occupant := self.occupant) is None:
            self._occupant = asking
        elif self._occupant is not None and self._occupant[0] is not asking[0]:
            raise ScopeError(
                f"isolate() cannot keep apart what happens at the same time: {asking[1]} sends its first "
                f"statement while {occupant} has work on the same connection, and savepoints are a stack. "
                f"Let one end before the other begins, or {_CLONE}."
            )

    def _refuse_commit(self, *_: object) -> None:
        self._broken = "was committed by hand"
        raise ScopeError(
            "The connection of isolate() cannot be committed: the test would leave its work behind. The "
            "sessions see what is done on it without a commit, since they work on the same one."
        )

    def _note_rollback(self, *_: object) -> None:
        self._broken = "was rolled back by hand"

    async def _roll_back(self, roll_back: Callable[[], Awaitable[object]]) -> None:
        if not self.broken:
            await roll_back()
        elif self._broken and not (self.sync.closed or self.sync.invalidated):
            # To SQLAlchemy the transaction has ended, to the database it may have not.
            await self.connection.run_sync(lambda sync: sync.dialect.do_rollback(sync.connection))

    async def end(self, depth: int, roll_back: Callable[[], Awaitable[object]]) -> Exception | None:
        """Roll back; where a scope still has work on it, terminate the connection. Returns what is wrong."""
        occupant, in_order = self.occupant, self.depth == depth
        self.depth = depth - 1
        try:
            if occupant is None and in_order:
                await self._roll_back(roll_back)
                return None
            if not (self.sync.closed or self.sync.invalidated):
                await self.connection.invalidate()
        except Exception as error:
            return error
        return ScopeError(
            f"isolate() was left while {occupant} still has work on its connection, which was terminated. "
            "Leave every scope within the block, and await the tasks that open them."
            if occupant is not None
            else "isolate() blocks of one engine were left in another order than they were entered, and its "
            "connection was terminated."
        )


@asynccontextmanager
async def outer_transaction(engine: AsyncEngine) -> AsyncGenerator[None]:
    key = engine.sync_engine
    async with AsyncExitStack() as stack:
        line = lines.get(key)
        if line is None:
            connection = await engine.connect()
            stack.push_async_callback(_to_its_end, connection.close)
            await connection.begin()
            if engine.dialect.name == "sqlite":
                stack.push_async_callback(_to_its_end, await _begin_on_sqlite(connection))
            line = lines[key] = Line(connection)
            stack.callback(lines.pop, key)
            roll_back: Callable[[], Awaitable[object]] = connection.rollback
        else:
            roll_back = await _savepoint(line)
        line.depth += 1
        depth = line.depth
        try:
            yield
        except BaseException as error:
            if (problem := await to_its_end(line.end(depth, roll_back))) is not None:
                add_notes(error, [problem])
            raise
        _raise(await to_its_end(line.end(depth, roll_back)))


def _raise(problem: Exception | None) -> None:
    if problem is not None:
        raise problem


async def _savepoint(line: Line) -> Callable[[], Awaitable[object]]:
    """Isolate once more what is isolated already; returns the rollback."""
    line.refuse_other_loop("isolate() within it")
    if line.occupant is not None:
        raise ScopeError(
            f"isolate() within isolate() sets a savepoint, and {line.occupant} has work on that connection. "
            "Enter it before the scope."
        )
    return (await line.connection.begin_nested()).rollback


async def _to_its_end(work: Callable[[], Any]) -> None:
    await to_its_end(work())


async def _begin_on_sqlite(connection: AsyncConnection) -> Callable[[], Any]:
    """Send the BEGIN that sqlite's driver holds back; returns what undoes the setting that this needs."""

    def begin(sync: Connection) -> Any:
        adapted: Any = sync.connection.dbapi_connection
        driver: Any = sync.connection.driver_connection
        before = adapted.isolation_level
        if not driver.in_transaction:
            adapted.isolation_level = None
            sync.exec_driver_sql("BEGIN")
        return before

    before = await connection.run_sync(begin)

    def restore(sync: Connection) -> None:
        if not (sync.closed or sync.invalidated):
            adapted: Any = sync.connection.dbapi_connection
            adapted.isolation_level = before

    async def undo() -> None:
        if not connection.closed:
            await connection.run_sync(restore)

    return undo
