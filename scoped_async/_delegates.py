"""What the proxy's names are delegated to: one maker of delegates for each kind of name."""

from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ._callbacks import Outcome
from ._checks import refuse_in_block, refuse_marked, usable_unit
from ._cleanup import error_of
from ._frame import Unit, current
from ._guarded import GuardedTransaction, guard
from ._held import SETTLING, let_settle
from ._outcome import Conclusion, conclude
from ._proxy import Kind
from ._running import current_task, running_loop
from ._session import HeldSession

_get_current = current.get


Delegate = Callable[..., Any]


Find = Callable[[Any, str], HeldSession]
"""What the current scope holds of a proxy, for the name that was asked for."""


async def end_otherwise(
    unit: Unit, held: HeldSession, operation: str, end: Callable[[], Awaitable[None]]
) -> None:
    """Run what ends the session's transaction in another way than by a commit."""

    async def work() -> Conclusion:
        outcome = Outcome.ROLLED_BACK if held.in_transaction or operation == "rollback" else None
        if (error := await error_of(end)) is not None:
            held.abort()
        return outcome, error

    await conclude(unit, [held], operation, work)


async def _commit(unit: Unit, held: HeldSession) -> None:
    async def work() -> Conclusion:
        error = await error_of(held.commit)
        return (Outcome.COMMITTED if error is None else held.outcome_of_failure), error

    await conclude(unit, [held], "commit", work)


def _operation(name: str, find: Find) -> Delegate:
    async def operation(self: Any, first: Any = ..., /, *args: Any, **kwargs: Any) -> Any:
        held: Any = _get_current().unit[self]
        if held.loop is not running_loop():
            held = find(self, name)
        if held.busy is not None:
            if held.operation is SETTLING:
                await let_settle(held)
                held = find(self, name)  # the scope may have ended meanwhile
            if not held.claim(name):
                return await _call(held.object.METHOD, first, args, kwargs)
        held.busy = current_task()
        held.operation = name
        try:
            if args or kwargs or first is ...:
                return await _call(held.object.METHOD, first, args, kwargs)
            return await held.object.METHOD(first)
        except BaseException as error:
            held.failure = error
            raise
        finally:
            held.busy = None
            if held.released is not None:
                held.wake()

    return operation


def _call(method: Callable[..., Any], first: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return method(*args, **kwargs) if first is ... else method(first, *args, **kwargs)


def _stream(name: str, find: Find) -> Delegate:
    start = _for_name(_operation(name, find), name)

    async def stream(self: Any, *args: Any, **kwargs: Any) -> Any:
        return guard(await start(self, *args, **kwargs), find(self, name))

    return stream


def _driver(name: str, find: Find) -> Delegate:
    run = _for_name(_operation(name, find), name)

    async def driver(self: Any, *args: Any, **kwargs: Any) -> Any:
        find(self, name).doubtful = True
        return await run(self, *args, **kwargs)

    return driver


def _ending(name: str, find: Find) -> Delegate:
    async def ending(self: Any) -> None:
        held = find(self, name)
        unit = usable_unit(_get_current(), f"Session.{name}()")
        # Law 26 names these two and begin(). close() and the like stay possible: it speaks of savepoints that
        # are gone, and law 23 of what becomes of the callbacks.
        if name in ("commit", "rollback"):
            refuse_in_block(unit, f"Session.{name}()")
        if name == "commit":
            refuse_marked(unit, held.owner)
            await _commit(unit, held)
        else:
            await end_otherwise(unit, held, name, lambda: held.end_by(name))

    return ending


def _transaction(name: str, find: Find) -> Delegate:
    def transaction(self: Any) -> GuardedTransaction:
        return GuardedTransaction(find(self, name), nested=name == "begin_nested")

    return transaction


def _method(name: str, find: Find) -> Delegate:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        held: Any = _get_current().unit[self]
        if held.loop is not running_loop():
            held = find(self, name)
        if args or kwargs:
            return held.object.METHOD(*args, **kwargs)
        return held.object.METHOD()

    return method


def _attribute(name: str, find: Find) -> Delegate:
    def attribute(self: Any) -> Any:
        held: Any = _get_current().unit[self]
        if held.loop is not running_loop():
            held = find(self, name)
        return held.object.METHOD

    return attribute


def _for_name(template: Any, name: str) -> Delegate:
    """A delegate that looks like what it stands for, and has ``name`` in the place of ``METHOD``.

    An attribute that is written in the code is found at a fifth of the cost of ``getattr()``.
    """
    code = template.__code__
    names = tuple(name if each == "METHOD" else each for each in code.co_names)
    code = code.replace(co_names=names, co_name=name, co_qualname=f"AsyncScopedSession.{name}")
    delegate = FunctionType(code, template.__globals__, name, template.__defaults__, template.__closure__)
    delegate.__doc__ = getattr(AsyncSession, name, template).__doc__
    return delegate


_TEMPLATES: dict[Kind, Callable[[str, Find], Delegate]] = {
    Kind.OPERATION: _operation,
    Kind.STREAM: _stream,
    Kind.ENDING: _ending,
    Kind.DRIVER: _driver,
    Kind.TRANSACTION: _transaction,
    Kind.METHOD: _method,
    Kind.ATTRIBUTE: _attribute,
    Kind.WRITABLE: _attribute,
}


def make_delegate(kind: Kind, name: str, find: Find) -> "Delegate | property":
    """What a name of the table is on the proxy's class."""
    delegate = _for_name(_TEMPLATES[kind](name, find), name)
    return property(delegate) if kind in (Kind.ATTRIBUTE, Kind.WRITABLE) else delegate
