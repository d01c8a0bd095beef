"""What the middlewares are told: whether the work of a request is committed, its name, and its options."""

from collections.abc import Callable
from inspect import iscoroutinefunction
from typing import Any

from ._frame import Options
from ._propagation import checked_options


def request_options(
    commit: bool | Callable[[Any], bool],
    name: Callable[[Any], str] | None,
    *,
    readonly: bool,
    close_timeout: float | None,
) -> Options:
    """The options of a request's scopes. Raises as `scope()`, and `TypeError` for what cannot be asked."""
    if not (isinstance(commit, bool) or callable(commit)) or _is_async(commit):
        raise TypeError(
            "commit is True, False, or a function that is not async, is asked with the status and returns "
            f"whether to commit; not {commit!r}."
        )
    if name is not None and (not callable(name) or _is_async(name)):
        raise TypeError(f"name is a function that is not async and returns the name, and not {name!r}.")
    options = checked_options(commit=commit is not False, readonly=readonly, close_timeout=close_timeout)
    return options._replace(commit=False)  # the outcome is asked for before the answer


def _is_async(function: object) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004  # of an object
    )
