"""A proxy by an explicit table of names: what is not in it is refused before anything is looked up."""

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Any, NamedTuple


class Kind(Enum):
    """How a name of the table is delegated."""

    OPERATION = auto()
    """A coroutine method: guarded, one at a time."""
    STREAM = auto()
    """A coroutine method whose result is fetched from later, under the same guard."""
    ENDING = auto()
    """A coroutine method that ends a transaction: guarded, and run to its end."""
    DRIVER = auto()
    """A coroutine method that hands out what errors can be swallowed on unseen."""
    TRANSACTION = auto()
    """A method whose async context manager is guarded at its enter and exit."""
    METHOD = auto()
    ATTRIBUTE = auto()
    WRITABLE = auto()
    """An attribute that may be assigned to."""


class Name(NamedTuple):
    """One line of the table: the kind, and the version of SQLAlchemy that brought it, past the floor."""

    kind: Kind
    since: tuple[int, int] = (2, 0)


class Proxy:
    """Delegates by ``__getattr__`` over ``_names``; a subclass says to what, and how for each kind.

    Delegates bind late: what they are made of depends on the name alone, so each is made once, kept on the
    instance, and the next access does not come through ``__getattr__`` again.
    """

    _names: Mapping[str, Name] = {}
    _refused: Mapping[str, str] = {}
    _delegates: Mapping[Kind, Callable[[Any, str], object]] = {}

    def _target(self, name: str) -> Any:
        """The object whose attribute ``name`` is asked for."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        entry = self._names.get(name)
        if entry is None:
            raise AttributeError(self._no_such_name(name), name=name, obj=self)
        if entry.kind is Kind.ATTRIBUTE or entry.kind is Kind.WRITABLE:
            return getattr(self._target(name), name)
        delegate = self._delegates[entry.kind](self, name)
        self.__dict__[name] = delegate
        return delegate

    def __setattr__(self, name: str, value: object) -> None:
        entry = self._names.get(name)
        if entry is not None and entry.kind is Kind.WRITABLE:
            setattr(self._target(name), name, value)
        elif entry is not None:
            raise AttributeError(f"{name!r} of {self!r} cannot be assigned to.", name=name, obj=self)
        else:
            raise AttributeError(self._no_such_name(name), name=name, obj=self)

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._names})

    def _no_such_name(self, name: str) -> str:
        reason = self._refused.get(name, "it is not one of the names that are delegated")
        return f"{type(self).__name__} has no {name!r}: {reason}. `Session()` returns the real session."
