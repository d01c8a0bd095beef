"""A scope per job of a taskiq broker: body, COMMIT, then the result is stored and the message is acked."""

from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, cast
from weakref import WeakSet

from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, TaskiqMessage, TaskiqMiddleware

from ._propagation import Propagation, scope

Task = AsyncTaskiqDecoratedTask[Any, Any]

_in_scope = WeakSet[Task]()
"""The tasks whose function opens its scope itself: a shared task may meet several brokers."""


class ScopeMiddleware(TaskiqMiddleware):
    """Run every job of the broker in a scope of its own, named after the task.

        broker.add_middlewares(ScopeMiddleware())

    ``commit``: commit when the job has ended well, the default; else roll back. The other options are those
    of `scope()`. A job has options of its own by the label ``scope`` where the task is declared:
    ``@broker.task(scope={"readonly": True})``, which then commits nothing, or ``scope=False`` for no scope.
    The label of the declaration counts, not one that a sender puts on a message.

    The scope is around the coroutine function itself, so a commit that fails is what the job fails with: the
    result says so, and the retry middlewares see it. A direct call, ``await task(...)``, opens the scope as
    well; with ``propagation="join"`` it runs in its caller's. Dependencies are resolved before the scope
    begins. A task that is no coroutine function runs in a thread, and gets no scope.

    Raises `ValueError` and `TypeError` for options that do not fit: here, or where the task is declared.

    .. versionadded:: 0.1
    """

    def __init__(
        self,
        *,
        commit: bool = True,
        propagation: Propagation = "new",
        readonly: bool = False,
        close_timeout: float | None = 10.0,
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {
            "commit": commit,
            "propagation": propagation,
            "readonly": readonly,
            "close_timeout": close_timeout,
        }
        scope(**self._options)  # says what does not fit

    def set_broker(self, broker: AsyncBroker) -> None:
        """Put the tasks of ``broker`` in scopes: those that it has, and those that are declared later."""
        super().set_broker(broker)
        for task in broker.local_task_registry.values():
            self._put_in_scope(task)
        declare: Callable[..., Task] = broker.decorator_class

        def declare_in_scope(*args: Any, **options: Any) -> Task:
            task = declare(*args, **options)
            self._put_in_scope(task)
            return task

        broker.decorator_class = cast(type[Task], declare_in_scope)

    def pre_execute(self, message: TaskiqMessage) -> TaskiqMessage:
        """Put a shared task in scopes, which its first job shows; it was declared on no broker."""
        if (task := self.broker.find_task(message.task_name)) is not None:
            self._put_in_scope(task)
        return message

    def _put_in_scope(self, task: Task) -> None:
        label: Mapping[str, Any] | bool = task.labels.get("scope", True)
        function = task.original_func
        # taskiq has no hook between the body and the result, so the function itself opens the scope.
        if task in _in_scope or label is False or not iscoroutinefunction(function):
            return
        own = {} if label is True else dict(label)
        if own.get("readonly"):
            own.setdefault("commit", False)
        options: dict[str, Any] = {**self._options, "name": task.task_name, **own}
        task.original_func = scope(**options)(function)
        _in_scope.add(task)
