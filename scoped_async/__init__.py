"""Ambient SQLAlchemy sessions for asyncio: a unit of work is a scope, and one is current."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._propagation import scope
    from ._resource import ScopedResource
    from ._scope import Scope, current_scope
    from .exceptions import (
        ConcurrentUseError,
        ForeignThreadError,
        NoScopeError,
        ReadOnlyScopeError,
        RollbackOnlyError,
        ScopeCleanupError,
        ScopeClosedError,
        ScopeError,
    )
    from .session import AsyncScopedSession, is_retryable
    from .tasks import create_task_group
else:
    # The first use of a name imports its module, and SQLAlchemy with it. The pytest plugin, which is loaded
    # in every run of pytest, must not.
    _HOMES = {
        "AsyncScopedSession": "session",
        "ConcurrentUseError": "exceptions",
        "ForeignThreadError": "exceptions",
        "NoScopeError": "exceptions",
        "ReadOnlyScopeError": "exceptions",
        "RollbackOnlyError": "exceptions",
        "Scope": "_scope",
        "ScopeCleanupError": "exceptions",
        "ScopeClosedError": "exceptions",
        "ScopeError": "exceptions",
        "ScopedResource": "_resource",
        "create_task_group": "tasks",
        "current_scope": "_scope",
        "is_retryable": "session",
        "scope": "_propagation",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f".{_HOMES[name]}", __name__), name)
        return value

    def __dir__():
        return sorted({*globals(), *__all__})


__all__ = [
    "AsyncScopedSession",
    "ConcurrentUseError",
    "ForeignThreadError",
    "NoScopeError",
    "ReadOnlyScopeError",
    "RollbackOnlyError",
    "Scope",
    "ScopeCleanupError",
    "ScopeClosedError",
    "ScopeError",
    "ScopedResource",
    "create_task_group",
    "current_scope",
    "is_retryable",
    "scope",
]
__version__ = "0.1.0"
