"""Decorate a coroutine function: each call runs in a scope, or in a block of one, of its own."""

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import wraps
from inspect import iscoroutinefunction, unwrap
from types import CodeType
from typing import Any, ParamSpec, TypeVar

from ._frame import Options

P = ParamSpec("P")
T = TypeVar("T")


def decorate(
    function: Callable[P, Coroutine[Any, Any, T]],
    options: Options,
    make: Callable[[Options, CodeType, int], AbstractAsyncContextManager[object]],
) -> Callable[P, Coroutine[Any, Any, T]]:
    """Run each call of ``function`` in what ``make`` makes."""
    if not iscoroutinefunction(function):
        raise TypeError(
            f"scope() decorates coroutine functions (`async def` without `yield`), not {function!r}. Inside "
            "of anything else use `async with scope(): ...`."
        )
    code = getattr(unwrap(function), "__code__", _NO_CODE)
    if options.name is None:
        options = options._replace(name=getattr(function, "__qualname__", None))

    @wraps(function)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        async with make(options, code, -1):
            return await function(*args, **kwargs)

    return run


_NO_CODE = (lambda: None).__code__
_RUN = next(each for each in decorate.__code__.co_consts if getattr(each, "co_name", "") == "run")


def code_of(coro: Coroutine[Any, Any, Any]) -> CodeType | None:
    """The code of the function whose call ``coro`` is, also where that is decorated."""
    code: CodeType | None = getattr(coro, "cr_code", None)
    if code is _RUN:
        frame: Any = getattr(coro, "cr_frame", None)
        code = getattr(unwrap(frame.f_locals["function"]), "__code__", code)
    return code
