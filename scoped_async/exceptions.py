"""The errors of scoped_async, one tree.

RuntimeError
└── ScopeError                    a scope is used in a way that it does not allow
    ├── NoScopeError              no scope is current
    ├── ScopeClosedError          the scope that is current has ended
    ├── ConcurrentUseError        another task's operation is in flight, or its savepoint is open
    ├── ForeignThreadError        used from another thread or event loop than the scope's own
    ├── RollbackOnlyError         a commit was asked for, but the transaction can only be rolled back
    ├── ReadOnlyScopeError        a write was tried in a ``readonly`` scope
    └── ScopeCleanupError         the end of a scope could not be carried out as asked
"""


class ScopeError(RuntimeError):
    """Base of all errors of this package; raised itself where none below says it better.

    .. versionadded:: 0.1
    """


class NoScopeError(ScopeError):
    """No scope is current: ``async with scope(): ...`` opens one.

    .. versionadded:: 0.1
    """


class ScopeClosedError(ScopeError):
    """The scope that is current has ended; whoever inherited it needs a scope of its own.

    .. versionadded:: 0.1
    """


class ConcurrentUseError(ScopeError):
    """Another task's operation is in flight on the session, or its savepoint is open.

    Raised before anything is sent to the database; the operation in flight goes on unharmed.

    .. versionadded:: 0.1
    """


class ForeignThreadError(ScopeError):
    """A scope is used outside the thread and the running event loop that it was opened in.

    .. versionadded:: 0.1
    """


class RollbackOnlyError(ScopeError):
    """A commit was asked for, but the transaction can only be rolled back, and was.

    ``__cause__`` is what spoiled it: the exception with which a joined block failed, or the statement
    whose error was swallowed so that PostgreSQL would answer ``COMMIT`` with ``ROLLBACK``.

    .. versionadded:: 0.1
    """


class ReadOnlyScopeError(ScopeError):
    """A ``readonly`` scope was asked to flush or to commit changes.

    .. versionadded:: 0.1
    """


class ScopeCleanupError(ScopeError):
    """A scope's clean-up ran out of its time, or the outcome of its commit is unknown.

    .. versionadded:: 0.1
    """
