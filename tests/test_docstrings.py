"""Every public name tells what one has to know to use it, so that help() and the reference do."""

import inspect
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import pytest

import scoped_async
from scoped_async import testing

MODULES = {
    "scoped_async": scoped_async.__all__,
    "scoped_async.session": ["Registry", "delegate"],
    "scoped_async.asgi": ["ScopeMiddleware"],
    "scoped_async.testing": testing.__all__,
    "scoped_async.pytest_plugin": ["scoped_async_sessions", "scoped_isolation", "ScopeLeakWarning"],
}
"""By module the names that the reference has of it."""
OPTIONAL = {
    "aiohttp": ("aiohttp", "scope_middleware"),
    "faststream": ("faststream", "ScopeMiddleware"),
    "grpc": ("grpc", "ScopeInterceptor"),
    "taskiq": ("taskiq", "ScopeMiddleware"),
}
"""Likewise, where the package is there that it is made for."""
for package, (module, name) in OPTIONAL.items():
    if find_spec(package):
        MODULES[f"scoped_async.{module}"] = [name]

MEMBERS = {
    "Scope": "token name parent closed opened_at readonly rollback_only commit rollback release after_commit "
    "after_rollback",
    "AsyncScopedSession": "__call__ configure remove close_all",
    "Registry": "__call__ has set clear",
    "ScopedResource": "__call__",
    "Recording": "commits rollbacks of",
}
"""What the reference has of a class."""

RAISES_NOTHING = {
    "AsyncScopedSession.close_all", "AsyncScopedSession.configure", "HeldConnection", "Recording",
    "Recording.commits", "Recording.rollbacks", "Registry", "Registry.has", "Scope",
    "Scope.closed", "Scope.name", "Scope.opened_at", "Scope.parent", "Scope.readonly", "Scope.token",
    "ScopedResource", "Statement", "delegate", "is_retryable", "scoped_async_sessions",
    "scoped_isolation",
}  # fmt: skip
"""What raises no error of its own; all others say which and when."""

MADE_BY_US = {"HeldConnection", "Recording", "Registry", "Scope", "Statement"}
"""What nobody calls to make one."""

OPTIONS_OF_SCOPE = {"commit", "propagation", "readonly", "name", "close_timeout"}

FOLLOWS = {
    "scope": "PEP 567",
    "current_scope": "PEP 567",
    "Scope.token": "PEP 567",
    "AsyncScopedSession": "Using asyncio scoped session",
    "Registry": "ScopedRegistry",
    "create_task_group": "anyio",
    "is_retryable": "SQLSTATE",
    "isolate": "Joining a Session into an External Transaction",
    "ScopeMiddleware": "ASGI",
}
"""The specification, or the part of a library, that it keeps to, by the name to look for."""

# A docstring that begins so says what it is that one gets.
IS_WHAT_IT_RETURNS = ("The ", "Whether ", "Where ", "What ", "How ", "An ", "A ")


class Public(NamedTuple):
    """One public name."""

    title: str
    object: Any

    @property
    def docstring(self) -> str:
        return inspect.getdoc(self.object) or ""

    @property
    def call(self) -> Callable[..., Any] | None:
        """What is called, when it is something to call."""
        if isinstance(self.object, property) or self.is_exception:
            return None
        if inspect.isclass(self.object):
            own = vars(self.object).get("__init__")
            return own if inspect.isfunction(own) else None
        found = getattr(self.object, "_get_wrapped_function", lambda: self.object)()  # a fixture of pytest
        return found if callable(found) else None

    @property
    def is_exception(self) -> bool:
        return inspect.isclass(self.object) and issubclass(self.object, BaseException)

    @property
    def is_a_fixture(self) -> bool:
        return hasattr(self.object, "_get_wrapped_function")


def names() -> Iterator[Public]:
    for module, titles in MODULES.items():
        for title in titles:
            found = getattr(import_module(module), title)
            yield Public(title, found)
            if inspect.isclass(found):
                for member in MEMBERS.get(title, "").split():
                    yield Public(f"{title}.{member}", inspect.getattr_static(found, member))


NAMES = list(names())
each = pytest.mark.parametrize("name", NAMES, ids=[public.title for public in NAMES])


@each
def test_what_it_does(name: Public) -> None:
    """One sentence, at least, of its own."""
    assert re.match(r"[A-Z`].{15,}[.:]", name.docstring, re.DOTALL), name.docstring


@each
def test_parameters(name: Public) -> None:
    """Each parameter is told of by its name, or as one of `scope()`; and seconds where it is a time."""
    if name.call is None or name.is_a_fixture or name.title in MADE_BY_US:
        return
    parameters = [
        parameter.name
        for parameter in inspect.signature(name.call).parameters.values()
        if parameter.name not in ("self", "cls")
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    as_in_scope = "`scope()`" in name.docstring and name.title != "scope"
    missing = [each for each in parameters if not re.search(rf"``[^`]*\b{each}\b", name.docstring)]
    assert [each for each in missing if not (as_in_scope and each in OPTIONS_OF_SCOPE)] == []
    assert "close_timeout" not in parameters or as_in_scope or "seconds" in name.docstring


@each
def test_what_one_gets(name: Public) -> None:
    """What it yields or returns, when that is something."""
    if name.is_exception or inspect.isclass(name.object):
        return
    call = name.object.fget if isinstance(name.object, property) else name.call
    annotation = inspect.signature(call).return_annotation if call is not None else None
    if annotation in (None, "None"):
        return
    said = name.docstring.startswith(IS_WHAT_IT_RETURNS) or re.search(
        r"\b([Rr]eturn|[Yy]ield)", name.docstring
    )
    assert said or name.is_a_fixture, name.docstring


@each
def test_errors(name: Public) -> None:
    """Which errors it raises, and when."""
    if not name.is_exception and name.title not in RAISES_NOTHING:
        assert re.search(r"[Rr]aise|Error`", name.docstring), name.docstring


@pytest.mark.parametrize(
    "name", [public for public in NAMES if "." not in public.title], ids=lambda n: n.title
)
def test_since_when(name: Public) -> None:
    """The version that it came with."""
    assert re.search(r"^\.\. versionadded:: \d+\.\d+", name.docstring, re.MULTILINE)


@pytest.mark.parametrize(
    "name", [public for public in NAMES if public.title in FOLLOWS], ids=lambda n: n.title
)
def test_what_it_follows(name: Public) -> None:
    """The section of SQLAlchemy's documentation or the PEP that it keeps to."""
    if getattr(name.object, "__module__", "") in ("scoped_async.taskiq", "scoped_async.faststream"):
        return  # a ScopeMiddleware that has nothing to do with ASGI
    assert FOLLOWS[name.title] in name.docstring
