"""The leak check: which scopes, sessions and connections a test left behind, by listening while it is on."""

import asyncio
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from inspect import currentframe
from itertools import dropwhile, islice
from traceback import StackSummary, format_list
from types import FrameType
from typing import Any

from sqlalchemy import event
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from ._frame import CLOSING, Owner, current
from ._running import current_task, running_loop
from ._scope import Scope

greenlet: Any = import_module("greenlet")  # has no types of its own

_MANY = 1000
_RUNNER = "TestRunner._run_tests_and_fixtures"
_STAYS = "it stays current in the tests that follow, as anyio's plugin runs them in the same task"
_LIBRARIES = {"anyio", "asyncio", "contextlib", "greenlet", "scoped_async", "sqlalchemy"}


@dataclass
class Opened:
    """Something that is to end within the test, or within the fixture that opened it."""

    what: str
    scope: Owner | None
    """Where it was opened, or what it is."""
    fixture: object
    stack: list[str]
    shared: bool
    """Whether its task runs other tests too, and their fixtures."""
    loop: object = field(default_factory=running_loop)

    def report(self) -> str:
        """What it is and where it was opened, with the stack when there is one."""
        if self.stack:
            return "\n".join([f"{self.what}; the stack, the innermost line last:", *self.stack])
        return self.what


class LeakCheck:
    """What is open just now, of all that was opened since the check began."""

    def __init__(self, *, with_stacks: bool) -> None:
        self.with_stacks = with_stacks
        self.fixtures: list[object] = []
        """The fixtures of a wider scope than one test that are being set up, the innermost last."""
        self._open: dict[object, Opened] = {}
        """By scope, session, and connection record of the pool."""
        self._left: list[Opened] = []
        """What was open when its event loop was closed."""
        self._next_look = _MANY

    @contextmanager
    def running(self) -> Generator[None]:
        """Listen during the block."""
        enter, close = Scope.__aenter__, asyncio.Runner.close

        async def tracked_enter(scope: Scope) -> Scope:
            entered = await enter(scope)
            self._add_scope(scope)
            return entered

        def tracked_close(runner: asyncio.Runner) -> None:
            # asyncio.run() and anyio.run() run a program to its end, and that ends whatever is left of it.
            if not _ends_a_program():
                self._loop_closes(getattr(runner, "_loop", None))
            close(runner)

        with ExitStack() as stack:
            _replace(stack, Scope, "__aenter__", tracked_enter)
            _replace(stack, asyncio.Runner, "close", tracked_close)
            _listen(stack, Session, "after_transaction_create", self._add_session)
            _listen(stack, Session, "after_transaction_end", self._remove_session)
            _listen(stack, Pool, "checkout", self._add_connection)
            _listen(stack, Pool, "checkin", self._remove_connection)
            _listen(stack, Pool, "detach", self._remove_connection)
            yield

    def fixture_ended(self, fixture: object) -> None:
        """What ``fixture`` opened is due now."""
        for opened in self._open.values():
            if opened.fixture is fixture:
                opened.fixture = None

    def collect(self) -> list[str]:
        """Report what was left behind, and forget it; what wider fixtures hold is theirs to end."""
        self._drop_closed()
        left = self._left + [self._said(key) for key, opened in self._open.items() if opened.fixture is None]
        self._left = []
        self._open = {key: opened for key, opened in self._open.items() if opened.fixture is not None}
        scopes = {opened.scope for opened in left if opened.what.startswith("the scope")}
        return [
            opened.report()
            for opened in left
            if opened.what.startswith("the scope") or opened.scope is None or opened.scope not in scopes
        ]

    def _said(self, key: object, *, ended: bool = False) -> Opened:
        """``ended``: whether its event loop is."""
        opened = self._open[key]
        if isinstance(key, Scope):
            pending = ": it is being left, and its clean-up task is pending" if key.unit is CLOSING else ""
            shared = f"; {_STAYS}" if opened.shared and key.unit is not CLOSING and not ended else ""
            opened.what = f"the scope {key.name}, opened at {key.opened_at}{pending}{shared}"
        return opened

    def _loop_closes(self, loop: object) -> None:
        self._drop_closed()
        for key in [key for key, opened in self._open.items() if opened.loop is loop]:
            self._left.append(self._said(key, ended=True))
            del self._open[key]

    def _drop_closed(self) -> None:
        for key in [key for key in self._open if isinstance(key, Scope) and key.closed]:
            del self._open[key]
        self._next_look = len(self._open) * 2 + _MANY

    def _add(self, key: object, what: str, scope: Owner | None) -> None:
        stack: list[str] = []
        if self.with_stacks or not isinstance(key, Scope):  # which knows itself where it was opened
            frames = [*dropwhile(lambda frame: frame.f_globals["__name__"] == __name__, _frames())]
            stack = _formatted(frames) if self.with_stacks else []
            if not isinstance(key, Scope):
                what += f", taken at {_place(frames)}"
        fixture = self.fixtures[-1] if self.fixtures else None
        self._open[key] = Opened(what, scope, fixture, stack, _runs_tests())

    def _add_scope(self, scope: Scope) -> None:
        if len(self._open) > self._next_look:
            self._drop_closed()
        self._add(scope, "the scope", scope)

    def _add_session(self, session: Session, transaction: Any) -> None:
        if transaction.parent is None:
            self._add(session, "a session in a transaction", current.get().owner)

    def _remove_session(self, session: Session, transaction: Any) -> None:
        if transaction.parent is None:
            self._open.pop(session, None)

    def _add_connection(self, driver: object, record: object, proxy: object) -> None:
        self._add(record, "a connection out of its pool", current.get().owner)

    def _remove_connection(self, driver: object, record: object) -> None:
        self._open.pop(record, None)


def _frames() -> Iterator[FrameType]:
    """The frames from here outwards, through the greenlets that SQLAlchemy works in."""
    frame = currentframe()
    here = greenlet.getcurrent()
    while True:
        while frame is not None:
            yield frame
            frame = frame.f_back
        if here.parent is None:
            return
        here = here.parent
        frame = here.gr_frame


def _runs_tests() -> bool:
    """Whether this is the task in which anyio's plugin runs one test after the other."""
    task = None if running_loop() is None else current_task()
    return task is not None and getattr(task.get_coro(), "__qualname__", "") == _RUNNER


def _ends_a_program() -> bool:
    """Whether what called this is the end of a runner in a function ``run``."""
    frames = list(islice(_frames(), 3, 5))
    return [frame.f_code.co_name for frame in frames] == ["__exit__", "run"]


def _place(frames: Iterable[FrameType]) -> str:
    """The innermost line that is no library's."""
    own = (each for each in frames if each.f_globals["__name__"].partition(".")[0] not in _LIBRARIES)
    frame = next(own)  # pytest's at the latest
    return f"{frame.f_code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{frame.f_lineno}"


def _formatted(frames: list[FrameType]) -> list[str]:
    lines = StackSummary.extract(((frame, frame.f_lineno) for frame in reversed(frames)), lookup_lines=True)
    return [line.rstrip("\n") for line in format_list(lines)]


def _replace(stack: ExitStack, owner: type, name: str, function: Callable[..., Any]) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, function)


def _listen(stack: ExitStack, target: Any, name: str, function: Callable[..., None]) -> None:
    event.listen(target, name, function)
    stack.callback(event.remove, target, name, function)
