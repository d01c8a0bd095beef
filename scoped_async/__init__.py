"""Ambient SQLAlchemy sessions for asyncio: a unit of work is a scope, and a ContextVar says which is current."""

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
