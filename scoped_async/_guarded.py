"""Results and transactions that a session hands out, under the same guard as its operations."""

import asyncio
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncMappingResult, AsyncResult, AsyncScalarResult, AsyncSessionTransaction

from ._callbacks import Outcome, run_callbacks
from ._checks import refuse_in_block, refuse_marked, refuse_sibling, usable_unit
from ._cleanup import add_notes, error_of, first_of, one_error, to_its_end
from ._database import has_been_read, has_ended
from ._frame import Frame, Unit
from ._held import Held, claim_all, give_up_all, hand_over, let_settle
from ._outcome import Conclusion, conclude
from ._session import HeldSession
from .exceptions import ConcurrentUseError, ScopeError

R = TypeVar("R", AsyncResult[Any], AsyncScalarResult[Any], AsyncMappingResult)

_FETCHES = (
    "fetchall", "fetchone", "fetchmany", "all", "first", "one", "one_or_none", "scalar", "scalar_one",
    "scalar_one_or_none", "freeze", "close", "__anext__",
)  # fmt: skip
_DERIVED = ("scalars", "mappings")


def guard(result: R, held: HeldSession) -> R:
    """Put a result that is fetched from later under the guard of its session."""
    guarded: Any = result
    guarded.__class__ = _GUARDED[type(result)]
    alive = _Alive()
    guarded.__dict__.update(_held=held, _alive=alive)
    before: list[tuple[weakref.ref[object], Any]] = [
        (other, read) for other, read in held.streams if other() and not has_been_read(read)
    ]
    held.streams = [*before, (weakref.ref(alive), guarded._real_result)]
    return result


class _Alive:
    """Lives as long as the result that it is put on, to which there are no weak references."""

    __slots__ = ("__weakref__",)


def _fetch(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    @wraps(method)
    async def fetch(self: Any, *args: Any, **kwargs: Any) -> Any:
        held: HeldSession = self._held
        what = f"{method.__name__}() of a stream"
        if held.busy is not None:
            await let_settle(held)
        usable_unit(held.owner.here(), what)
        owed = held.claim(what)
        try:
            return await method(self, *args, **kwargs)
        except Exception as error:
            held.failure = error
            raise
        finally:
            if owed:
                held.give_up()

    return fetch


def _derive(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def derive(self: Any, *args: Any, **kwargs: Any) -> Any:
        return guard(method(self, *args, **kwargs), self._held)

    return derive


async def _partitions(self: Any, size: int | None = None) -> AsyncIterator[Any]:
    while partition := await self.fetchmany(size):
        yield partition


def _guarded(base: type) -> type:
    fetches = {name: _fetch(getattr(base, name)) for name in _FETCHES if hasattr(base, name)}
    derived = {name: _derive(getattr(base, name)) for name in _DERIVED if hasattr(base, name)}
    return type(base.__name__, (base,), {"__slots__": (), "partitions": _partitions, **fetches, **derived})


_GUARDED: dict[type, type] = {
    base: _guarded(base) for base in (AsyncResult, AsyncScalarResult, AsyncMappingResult)
}


class GuardedTransaction(AsyncSessionTransaction):
    """What ``begin()`` and ``begin_nested()`` return: guarded when it is entered and when it is left."""

    __slots__ = ("held", "starting", "task")

    held: HeldSession
    task: asyncio.Task[Any] | None

    def __init__(self, held: HeldSession, *, nested: bool) -> None:
        super().__init__(held.object, nested=nested)
        self.held = held
        self.starting = False

    @property
    def is_open(self) -> bool:
        return self.starting or (self.sync_transaction is not None and not has_ended(self.sync_transaction))

    def stands_around(self, frame: Frame) -> bool:
        return self.task is asyncio.current_task()

    @property
    def _what(self) -> str:
        return "begin_nested()" if self.nested else "begin()"

    async def start(self, is_ctxmanager: bool = False) -> "GuardedTransaction":
        await let_settle(self.held)
        frame = self.held.owner.here()
        unit = usable_unit(frame, self._what)
        if self.nested:
            refuse_sibling(unit, frame)
        else:
            refuse_in_block(unit, self._what)
        owed = self.held.claim(self._what)
        self.task = asyncio.current_task()
        self.starting = True
        if self.nested:
            unit.savepoints = [*unit.savepoints, self]
        try:
            await super().start(is_ctxmanager)
        finally:
            self.starting = False
            if owed:
                self.held.give_up()
        if not self.nested:
            self.held.begun = self.sync_transaction
        return self

    async def commit(self) -> None:
        unit = self._unit("the commit of " + self._what)
        if not self.nested:
            self._refuse_commit(unit)
        await self._end(unit, "commit", lambda: self._commit(super(GuardedTransaction, self).commit))

    async def rollback(self) -> None:
        unit = self._unit("the rollback of " + self._what)
        if not self.nested:
            refuse_in_block(unit, "The rollback of begin()")
        await self._end(
            unit, "rollback", lambda: self._roll_back(super(GuardedTransaction, self).rollback), lost=True
        )

    async def __aexit__(self, type_: Any, value: Any, traceback: Any) -> None:
        try:
            unit = self._unit("the end of " + self._what)
        except ScopeError:
            if value is None:
                raise
            return  # the scope has ended, and its exit has rolled back what stood here
        leave = super().__aexit__

        async def end() -> None:
            error = value
            try:
                if error is None and self.is_open:
                    if not self.nested:
                        self._refuse_commit(unit)
                    await self._commit(super(GuardedTransaction, self).commit)
            except BaseException as failure:
                error = failure
                raise
            finally:
                await self._roll_back(lambda: leave(None if error is None else type(error), error, None))

        try:
            await self._end(unit, "the end of " + self._what, end, lost=value is not None)
        except ConcurrentUseError as error:
            if value is None:
                raise
            unit.failure = first_of(unit.failure, value)
            add_notes(value, [error])

    def _unit(self, what: str) -> Unit:
        return usable_unit(self.held.owner.here(), what)

    def _refuse_commit(self, unit: Unit) -> None:
        refuse_in_block(unit, "The end of begin()")
        refuse_marked(unit, self.held.owner)

    async def _commit(self, commit: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self.nested:
            await commit()
        else:
            await self.held.commit(commit)

    async def _roll_back(self, roll_back: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self.nested:
            await roll_back()
        else:
            await self.held.cutting_off(roll_back)

    async def _end(
        self, unit: Unit, operation: str, end: Callable[[], Coroutine[Any, Any, None]], *, lost: bool = False
    ) -> None:
        """End it by ``end``, to its end, with the callbacks that belong to it."""
        if self.nested:
            await to_its_end(self._end_savepoint(unit, claim_all([self.held], operation), end))
            return
        ended_before = not self.is_open

        async def conclusion() -> Conclusion:
            error = await error_of(end)
            outcome = Outcome.ROLLED_BACK if lost else Outcome.COMMITTED
            if error is not None and not lost:
                outcome = self.held.outcome_of_failure
            self.held.begin_anew()
            return (None if ended_before else outcome), error

        await conclude(unit, [self.held], operation, conclusion)

    async def _end_savepoint(
        self, unit: Unit, claimed: list[Held], end: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:
        hand_over(claimed)
        try:
            error = await error_of(end)
        finally:
            give_up_all(claimed)
        if self in unit.savepoints:
            del unit.savepoints[unit.savepoints.index(self) :]
        failures = await run_callbacks(unit.callbacks.take_due())
        if error is not None:
            add_notes(error, failures)
        else:
            error = one_error(failures, "Callbacks failed")
        if error is not None:
            raise error
