"""What a user could pick: one module for each, with the same five functions, by its own documented API.

``unused()``: a unit of work that touches no session; ``touched()``: one that asks for its session and sends
nothing; ``select()``: one SELECT; ``insert()``: one INSERT, committed; ``application``: an ASGI application
whose handler runs the SELECT.
"""

from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import NamedTuple
from warnings import catch_warnings, simplefilter


class Peer(NamedTuple):
    """A module here, and the package that it needs."""

    module: str
    name: str
    package: str | None

    @property
    def missing(self) -> str | None:
        """Why it cannot be measured on this Python, or ``None``."""
        try:
            self.load()
        except ImportError as error:
            return f"cannot be imported here: {error}"
        return None

    @property
    def title(self) -> str:
        """Its name, with the version that is installed."""
        if self.package is None:
            return self.name
        try:
            return f"{self.name} {version(self.package)}"
        except PackageNotFoundError:
            return self.name

    def load(self) -> ModuleType:
        """The module with the five functions."""
        with catch_warnings():
            simplefilter("ignore")  # what a library imports itself is not ours to mend
            return import_module(f"{__name__}.{self.module}")


PEERS = [
    Peer("by_hand", "hand-written ContextVar", None),
    Peer("ours", "scoped_async", None),
    Peer("task_session", "async_scoped_session", None),
    Peer("by_fastapi_async_sqlalchemy", "fastapi-async-sqlalchemy", "fastapi-async-sqlalchemy"),
    Peer("by_context_async_sqlalchemy", "context-async-sqlalchemy", "context-async-sqlalchemy"),
    Peer("by_advanced_alchemy", "advanced-alchemy", "advanced-alchemy"),
    Peer("by_dishka", "dishka", "dishka"),
    Peer("by_that_depends", "that-depends", "that-depends"),
    Peer("by_svcs", "svcs", "svcs"),
]
"""The first is what the others are compared with."""


def installed() -> Iterator[Peer]:
    """Those that can be measured on this Python."""
    return (peer for peer in PEERS if peer.missing is None)
