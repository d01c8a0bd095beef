"""What can be done with the work of a scope while it is open: commit, roll back, release, call back, mark."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVarTuple

from ._callbacks import Outcome
from ._checks import refuse_in_block, refuse_in_savepoint, refuse_marked, usable_unit
from ._cleanup import one_error
from ._frame import Owner, Unit
from ._outcome import Conclusion, commit_each, conclude, release_all, roll_back_all
from .exceptions import ScopeError

Ts = TypeVarTuple("Ts")


class Work(Owner):
    """A scope, as far as the work in it goes."""

    __slots__ = ()

    async def commit(self) -> None:
        """Commit every session of the scope in the order of first use, then run the callbacks.

        When one fails, those after it are rolled back. Raises what the commit raised; `RollbackOnlyError`
        when the scope is marked; `ScopeError` while a joined or nested block is open;
        `ConcurrentUseError` while another task's operation is in flight; `ScopeClosedError`;
        `ForeignThreadError`.
        """
        unit = self._unit("scope.commit()")
        refuse_in_block(unit, "scope.commit()")
        refuse_marked(unit, self)
        holdings = list(unit.values())
        await conclude(unit, holdings, "commit", lambda: commit_each(unit, holdings))

    async def rollback(self) -> None:
        """Roll back every session of the scope, newest first, clear the mark, and run the callbacks.

        Raises what a rollback raised; `ScopeError` while a joined or nested block is open;
        `ConcurrentUseError` while another task's operation is in flight; `ScopeClosedError`;
        `ForeignThreadError`.
        """
        unit = self._unit("scope.rollback()")
        refuse_in_block(unit, "scope.rollback()")
        holdings = list(unit.values())

        async def work() -> Conclusion:
            failures = await roll_back_all(holdings)
            unit.rollback_only, unit.failure = False, None
            return Outcome.ROLLED_BACK, one_error(failures, "The rollback failed")

        await conclude(unit, holdings, "rollback", work)

    async def release(self) -> None:
        """Give the scope's connections back to the pool while the scope stays open.

        For a slow call in the middle of a unit of work. Loaded objects stay attached and loaded, no callback
        runs, and the next use takes a connection again, in a new transaction. Raises `ScopeError`, and
        changes nothing, when something would be lost or is going on: pending changes, anything written or
        locked in the transaction, an open nested block, ``begin()`` or stream, an operation in flight.
        """
        unit = self._unit("scope.release()")
        refuse_in_savepoint(unit, "scope.release()")
        holdings = list(unit.values())
        await conclude(unit, holdings, "release", lambda: release_all(holdings))

    def after_commit(self, fn: Callable[[*Ts], Awaitable[object] | object], *args: *Ts) -> None:
        """Run ``fn(*args)`` once the work since the last outcome is committed; an async ``fn`` is awaited.

        Callbacks run once, in order, in the scope, when its connections are free; registered inside a
        savepoint they follow its fate. What they raise is raised when all have run. Raises
        `ScopeClosedError`, `ForeignThreadError`.
        """
        self._add(Outcome.COMMITTED, fn, args)

    def after_rollback(self, fn: Callable[[*Ts], Awaitable[object] | object], *args: *Ts) -> None:
        """Run ``fn(*args)`` once the work since the last outcome is rolled back; else as `after_commit`.

        Raises what that raises.
        """
        self._add(Outcome.ROLLED_BACK, fn, args)

    def _add(self, outcome: Outcome, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        unit = self._unit(f"after_{'commit' if outcome is Outcome.COMMITTED else 'rollback'}()")
        if not callable(function):
            raise TypeError(
                f"A callback is a function, followed by its arguments, and not {function!r}: write "
                "`after_commit(send, message)`."
            )
        unit.callbacks.add(outcome, function, arguments, unit.open_savepoints)
        for held in unit.values():
            held.watch()

    @property
    def rollback_only(self) -> bool:
        """Whether the work can only be rolled back; may be set to ``True``, and `rollback` clears it.

        Set by hand, the exit (in a nested block: the block's end) rolls back without an error, and an
        explicit commit raises `RollbackOnlyError`. Inside a joined block it is that block's failure.
        Raises `ScopeError` when set to ``False``, `ScopeClosedError`, `ForeignThreadError`.
        """
        return self.here().marked

    @rollback_only.setter
    def rollback_only(self, value: bool) -> None:
        if not value:
            raise ScopeError("rollback_only can be set to True only: `await scope.rollback()` clears it.")
        self._unit("rollback_only")
        self.here().mark()

    def _unit(self, what: str) -> Unit:
        return usable_unit(self.here(), what)
