"""scope(): open a new scope, or a block that joins or nests in the current one."""

import inspect
import sys
from collections.abc import Callable, Coroutine
from functools import lru_cache
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Protocol, TypeVar

from ._block import Block, Mandatory
from ._frame import NEW, Options
from ._nested import Nested
from ._scope import Scope

P = ParamSpec("P")
T = TypeVar("T")
Propagation = Literal["new", "join", "nested", "mandatory"]


class ScopeOpener(Protocol):
    """What `scope()` returns: an async context manager that yields a `Scope`, and a decorator."""

    async def __aenter__(self) -> Scope: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None: ...
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, T]], /
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...


_BLOCKS: dict[str, type[Block]] = {"join": Block, "nested": Nested, "mandatory": Mandatory}
_DEFAULTS = Options()
_getframe = sys._getframe  # pyright: ignore[reportPrivateUsage]  # documented, despite its name


def checked_options(
    *,
    commit: bool = False,
    readonly: bool = False,
    name: str | None = None,
    close_timeout: float | None = 10.0,
) -> Options:
    """The options of a new scope. Raises `ValueError` for those that do not fit together."""
    if readonly and commit:
        raise ValueError(
            "scope(readonly=True, commit=True): a readonly scope has nothing to commit. Drop one."
        )
    is_number = isinstance(close_timeout, int | float)  # pyright: ignore[reportUnnecessaryIsInstance]  # or "5"
    if close_timeout is not None and not (is_number and close_timeout >= 0):
        raise ValueError(f"close_timeout is in seconds, or None for no bound, not {close_timeout!r}.")
    return Options(commit, readonly, name, close_timeout)


@lru_cache  # of which a program has few
def _checked(
    *,
    commit: bool = False,
    propagation: Propagation = "new",
    readonly: bool = False,
    name: str | None = None,
    close_timeout: float | None = 10.0,
) -> tuple[Propagation, Options]:
    if propagation != "new" and propagation not in _BLOCKS:
        raise ValueError(
            f"propagation is one of 'new', {', '.join(map(repr, _BLOCKS))}, not {propagation!r}."
        )
    return propagation, checked_options(
        commit=commit, readonly=readonly, name=name, close_timeout=close_timeout
    )


_checked.__wrapped__.__qualname__ = "scope"  # what a TypeError of a wrong option names

if TYPE_CHECKING:

    def scope(
        *,
        commit: bool = False,
        propagation: Propagation = "new",
        readonly: bool = False,
        name: str | None = None,
        close_timeout: float | None = 10.0,
    ) -> ScopeOpener:
        """See below."""
        ...

else:

    def scope(*function, **options):  # keyword defaults would cost every scope more than all that it holds
        """Open a scope: ``async with scope() as current: ...``, or ``@scope()`` on a coroutine function.

        ``commit``: commit on a clean exit, and only then; default: roll back. ``propagation``: ``"new"``, a
        scope with sessions of its own; ``"join"``, run in the current scope, or in a new one without;
        ``"nested"``, in a savepoint on every session of the current scope, as ``"new"`` without one;
        ``"mandatory"``, as ``"join"``, but `NoScopeError` when there is nothing to join. ``readonly``: the
        sessions may only read. ``name``: in errors; default the qualified name of the function.
        ``close_timeout``: seconds that the exit may wait for other tasks, rollback and close together, 10
        by default, ``None``: no bound; a commit gets as many of its own.

        Yields the `Scope`, which is current (PEP 567) in the block and in what is started there. Raises
        `ValueError` for ``readonly`` with ``commit``, `TypeError` when it decorates anything but a coroutine
        function, `ScopeError` when entered twice. The exit raises what a commit or a clean-up raised, several
        as an ``ExceptionGroup``; with an exception of the body on its way they become notes on it.
        `RollbackOnlyError` when a commit was asked for and a block that joined has failed;
        `ScopeCleanupError` past ``close_timeout``.

        .. versionadded:: 0.1
        """
        frame = _getframe(1)
        if options or function:
            if function:
                raise TypeError(
                    "scope takes keywords only. As a decorator it wants its parentheses: `@scope()`."
                )
            propagation, checked = _checked(**options)
            if propagation != "new":
                return _BLOCKS[propagation](checked, frame.f_code, frame.f_lasti)
        self = Scope()
        self.options = checked if options else _DEFAULTS
        self.code = frame.f_code
        self.instruction = frame.f_lasti
        self.unit = NEW
        return self

    scope.__signature__ = inspect.signature(_checked).replace(return_annotation=ScopeOpener)
