"""What the proxy's names are delegated to: one maker of delegates for each kind of name."""

from asyncio import current_task
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from ._callbacks import Outcome
from ._checks import refuse_in_block, refuse_marked, usable_unit
from ._frame import Unit, current, running_loop
from ._guarded import GuardedTransaction, guard
from ._held import SETTLING, let_settle
from ._outcome import Conclusion, conclude
from ._proxy import Kind
from ._session import HeldSession

_get_current = current.get


Find = Callable[[str], HeldSession]
"""What the current scope holds of the proxy, for the name that was asked for."""
Make = Callable[[object, Find, str], Any]
"""Make the delegate of a name."""


async def end_otherwise(
    unit: Unit, held: HeldSession, operation: str, end: Callable[[], Awaitable[None]]
) -> None:
    """Run what ends the session's transaction in another way than by a commit."""

    async def work() -> Conclusion:
        outcome = Outcome.ROLLED_BACK if held.in_transaction or operation == "rollback" else None
        try:
            await end()
        except Exception as error:
            held.abort()
            return outcome, error
        return outcome, None

    await conclude(unit, unit.callbacks, [held], operation, work)


async def _commit(unit: Unit, held: HeldSession) -> None:
    async def work() -> Conclusion:
        try:
            await held.commit()
        except Exception as error:
            return (Outcome.UNKNOWN if held.unknown else Outcome.ROLLED_BACK), error
        return Outcome.COMMITTED, None

    await conclude(unit, unit.callbacks, [held], "commit", work)


def _operation(proxy: object, find: Find, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def operation(*args: Any, **kwargs: Any) -> Any:
        held: Any = _get_current().unit.get(proxy)
        loop = running_loop()
        if held is None or held.loop is not loop:
            held = find(name)
        if held.busy is not None:
            if held.operation is SETTLING:
                await let_settle(held)
                held = find(name)  # the scope may have ended meanwhile
            if not held.claim(name):
                return await getattr(held.object, name)(*args, **kwargs)
        held.busy = current_task(loop)
        held.operation = name
        try:
            method = getattr(held.object, name)
            return await (method(*args, **kwargs) if kwargs else method(*args))
        except BaseException as error:
            held.failure = error
            raise
        finally:
            held.busy = None
            if held.released is not None:
                held.wake()

    return operation


def _stream(proxy: object, find: Find, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    start = _operation(proxy, find, name)

    async def stream(*args: Any, **kwargs: Any) -> Any:
        return guard(await start(*args, **kwargs), find(name))

    return stream


def _driver(proxy: object, find: Find, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    run = _operation(proxy, find, name)

    async def driver(*args: Any, **kwargs: Any) -> Any:
        find(name).doubtful = True
        return await run(*args, **kwargs)

    return driver


def _ending(proxy: object, find: Find, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def ending() -> None:
        held = find(name)
        unit = usable_unit(_get_current(), f"Session.{name}()")
        if name in ("commit", "rollback"):
            refuse_in_block(unit, f"Session.{name}()")
        if name == "commit":
            refuse_marked(unit, held.owner)
            await _commit(unit, held)
        else:
            await end_otherwise(unit, held, name, lambda: held.end_by(name))

    return ending


def _transaction(proxy: object, find: Find, name: str) -> Callable[..., GuardedTransaction]:
    def transaction() -> GuardedTransaction:
        return GuardedTransaction(find(name), nested=name == "begin_nested")

    return transaction


def _method(proxy: object, find: Find, name: str) -> Callable[..., Any]:
    def method(*args: Any, **kwargs: Any) -> Any:
        held: Any = _get_current().unit.get(proxy)
        if held is None or held.loop is not running_loop():
            held = find(name)
        return getattr(held.object, name)(*args, **kwargs)

    return method


def _named(make: Make) -> Make:
    """Let a delegate look like the method that it stands for."""

    def named(proxy: object, find: Find, name: str) -> Any:
        delegate = make(proxy, find, name)
        delegate.__name__ = name
        delegate.__qualname__ = f"AsyncScopedSession.{name}"
        delegate.__doc__ = getattr(AsyncSession, name, delegate).__doc__
        return delegate

    return named


DELEGATES: dict[Kind, Make] = {
    Kind.OPERATION: _named(_operation),
    Kind.STREAM: _named(_stream),
    Kind.ENDING: _named(_ending),
    Kind.DRIVER: _named(_driver),
    Kind.TRANSACTION: _named(_transaction),
    Kind.METHOD: _named(_method),
}
