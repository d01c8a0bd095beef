"""create_task_group: an anyio task group whose children each run in a scope of their own."""

from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import anyio
from anyio.abc import TaskGroup, TaskStatus

from ._decorate import code_of
from ._frame import Options
from ._propagation import checked_options
from ._scope import Scope, new_scope

if TYPE_CHECKING:
    from anyio import CancelScope, TaskHandle

T = TypeVar("T")


def create_task_group(
    *,
    limit: int | None = None,
    commit: bool = False,
    readonly: bool = False,
    name: str | None = None,
    close_timeout: float | None = 10.0,
) -> TaskGroup:
    """An anyio task group whose children each run in a new scope, opened inside the child's own task.

    ``limit``: how many children may be in their scope at once, ``None``: any number; those that wait hold no
    scope, no session and no connection. Keep it no larger than the connection pool, one less if the parent
    holds a connection. The other options are those of `scope()`; a child's scope is named after its
    function, its parent is the scope that was current when the child was started, and it is closed before
    the child's task ends. Raises `ValueError` and `TypeError` for options that do not fit.

    .. versionadded:: 0.1
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is the number of children that may run at once, not {limit!r}.")
    options = checked_options(commit=commit, readonly=readonly, name=name, close_timeout=close_timeout)
    return ScopedTaskGroup(limit, options)


class ScopedTaskGroup(TaskGroup):
    """What `create_task_group` returns; it takes and returns what anyio's task group does."""

    def __init__(self, limit: int | None, options: Options) -> None:
        self._group = anyio.create_task_group()
        self._places = None if limit is None else anyio.Semaphore(limit, fast_acquire=True)
        self._options = options

    @property
    def cancel_scope(self) -> "CancelScope":  # type: ignore[override]  # a plain attribute there
        """The cancel scope of all children."""
        return self._group.cancel_scope

    def create_task(
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> "TaskHandle[T]":
        """Run ``coro`` in a scope of its own, in a task of its own; see anyio's ``create_task``."""
        # Whoever has no type checker may have called with something else.
        if not isinstance(coro, Coroutine):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"expected a coroutine, got {type(coro).__qualname__}")
        name = _name_of(coro) if name is None else name
        try:
            return self._group.create_task(self._run(coro), name=name, context=context)
        except BaseException:
            coro.close()  # no task runs it
            raise

    @overload
    async def start(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        *args: object,
        name: object = None,
        return_handle: Literal[False] = ...,
    ) -> Any: ...
    @overload
    async def start(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        *args: object,
        name: object = None,
        return_handle: Literal[True],
    ) -> "TaskHandle[T, Any]": ...
    async def start(
        self,
        func: Callable[..., Coroutine[Any, Any, T]],
        *args: object,
        name: object = None,
        return_handle: Literal[False, True] = False,
    ) -> Any:
        """Start ``func`` in a scope of its own and wait until it calls ``task_status.started()``."""

        @wraps(func)
        def started_in_scope(*, task_status: TaskStatus[Any]) -> Coroutine[Any, Any, T]:
            coro = func(*args, task_status=task_status)
            if isinstance(coro, Coroutine):  # pyright: ignore[reportUnnecessaryIsInstance]
                return self._run(coro)
            return coro  # which anyio refuses

        if return_handle:
            return await self._group.start(started_in_scope, name=name, return_handle=True)
        return await self._group.start(started_in_scope, name=name)

    async def __aenter__(self) -> "ScopedTaskGroup":
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        return await self._group.__aexit__(exc_type, exc_val, exc_tb)

    async def _run(self, coro: Coroutine[Any, Any, T]) -> T:
        try:
            if self._places is None:
                async with self._scope_of(coro):
                    return await coro
            async with self._places, self._scope_of(coro):
                return await coro
        finally:
            coro.close()  # one that was cancelled before its turn was never awaited

    def _scope_of(self, coro: Coroutine[Any, Any, Any]) -> Scope:
        options = self._options
        return new_scope(options, code_of(coro) or ScopedTaskGroup._run.__code__, -1)


def _name_of(coro: Coroutine[Any, Any, Any]) -> str:
    """The name that anyio gives the task of a coroutine: its module and its qualified name."""
    frame = getattr(coro, "cr_frame", None)
    module = frame.f_globals.get("__name__") if frame is not None else None
    return ".".join(part for part in (module, getattr(coro, "__qualname__", None)) if part)
