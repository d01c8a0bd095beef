"""A scope per job of a taskiq broker: body, COMMIT, then the result is stored and the message is acked."""

from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from typing import Any, cast
from weakref import WeakSet

from taskiq import AsyncBroker, AsyncTaskiqDecoratedTask, TaskiqMiddleware

from ._propagation import scope

Task = AsyncTaskiqDecoratedTask[Any, Any]

_in_scope = WeakSet[Task]()
"""The tasks whose function opens its scope itself: a shared task may meet several brokers."""


class ScopeMiddleware(TaskiqMiddleware):
    """Run every job of the broker in a scope of its own, named after the task.

        broker.add_middlewares(ScopeMiddleware())

    ``commit``: commit when the job has ended well, the default unless ``readonly``; else roll back.
    ``readonly``, ``close_timeout``: as in `scope()`. A job has options of its own by the label ``scope``
    where the task is declared: those of `scope()`, as ``@broker.task(scope={"readonly": True})``, which then
    commits nothing, or ``scope=False`` for no scope. The label of the declaration counts, not one that a
    sender puts on a message.

    The scope is around the coroutine function itself, so a commit that fails is what the job fails with: the
    result says so, and the retry middlewares see it. A direct call, ``await task(...)``, opens the scope as
    well; with ``scope={"propagation": "join"}`` it runs in its caller's, and so does a job of the broker in
    memory in that of its sender, which is to wait for it: ``InMemoryBroker(await_inplace=True)``.
    Dependencies (``TaskiqDepends``) are resolved before the scope begins, and finalized after it has ended. A
    task that is no coroutine function runs in a thread, and gets no scope.

    Raises `ValueError` for ``readonly`` with ``commit``, `TypeError` for an option that is none: here, or
    where the task is declared. A second one on a broker is a `ValueError` too.

    .. versionadded:: 0.1
    """

    def __init__(
        self,
        *,
        commit: bool | None = None,
        readonly: bool = False,
        close_timeout: float | None = 10.0,
    ) -> None:
        super().__init__()
        self._options: dict[str, Any] = {"readonly": readonly, "close_timeout": close_timeout}
        if commit is not None:
            self._options["commit"] = commit
        scope(**self._options)  # says what does not fit

    def set_broker(self, broker: AsyncBroker) -> None:
        """Put the tasks of ``broker`` in scopes: those that it has, and those that are declared later."""
        if any(isinstance(middleware, ScopeMiddleware) for middleware in broker.middlewares):
            raise ValueError(
                "This broker has a ScopeMiddleware already, and a job gets one scope. A job that needs other "
                'options has them by its label: `@broker.task(scope={"readonly": True})`.'
            )
        super().set_broker(broker)
        for task in broker.local_task_registry.values():
            self._put_in_scope(task)
        declare: Callable[..., Task] = broker.decorator_class
        find = broker.find_task

        def declare_in_scope(*args: Any, **options: Any) -> Task:
            task = declare(*args, **options)
            self._put_in_scope(task)
            return task

        def find_in_scope(task_name: str) -> Task | None:
            # Its first job shows a shared task that was declared since. For a pre_execute(), taskiq would
            # make and await a coroutine with every job.
            task = find(task_name)
            if task is not None and task.broker is not broker:
                self._put_in_scope(task)
            return task

        broker.decorator_class = cast(type[Task], declare_in_scope)
        broker.find_task = find_in_scope  # type: ignore[method-assign]

    def startup(self) -> None:
        """Put the shared tasks in scopes, which were declared on no broker."""
        for task in self.broker.get_all_tasks().values():
            self._put_in_scope(task)

    def _put_in_scope(self, task: Task) -> None:
        label: object = task.labels.get("scope", True)
        if not isinstance(label, bool | Mapping):
            raise TypeError(
                f"The label scope of {task.task_name} is True, False or the options of a scope, as "
                f'`@broker.task(scope={{"readonly": True}})`, and not {label!r}.'
            )
        function = task.original_func
        # taskiq has no hook between the body and the result, so the function itself opens the scope.
        if task in _in_scope or label is False or not iscoroutinefunction(function):
            return
        own: dict[str, Any] = {} if label is True else dict(label)
        if own.get("readonly"):
            own.setdefault("commit", False)
        options: dict[str, Any] = {**self._options, "name": task.task_name, **own}
        options.setdefault("commit", not options["readonly"])
        task.original_func = scope(**options)(function)
        _in_scope.add(task)
