"""A proxy by an explicit table of names: what is not in it is refused before anything is looked up."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from enum import Enum, auto
from inspect import iscoroutinefunction
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple, ParamSpec, Self, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


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


class Added(NamedTuple):
    """A line that a subclass adds to the table, by `delegate`."""

    kind: Kind


class Proxy:
    """Delegates by ``__getattr__`` over ``_names``; a subclass says how, for each kind.

    Delegates bind late: what they are made of depends on the name alone, so each is made once, kept on the
    class, and the next access does not come through ``__getattr__`` again.
    """

    _names: Mapping[str, Name] = {}
    _refused: Mapping[str, str] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        added = {name: value for name, value in cls.__dict__.items() if isinstance(value, Added)}
        cls._names = {**cls._names, **{name: Name(value.kind) for name, value in added.items()}}
        for name in added:
            delattr(cls, name)  # so that it is looked up in the table
        for base in cls.__bases__:
            if issubclass(base, Proxy):
                for name in base._names:
                    if hasattr(cls, name) and not hasattr(base, name):
                        base._keep(name)  # so that super() finds what is overridden

    @classmethod
    @abstractmethod
    def _delegate(cls, kind: Kind, name: str) -> Any:
        """The function or property that a name stands for."""

    @classmethod
    def _keep(cls, name: str) -> Any:
        delegate = cls._delegate(cls._names[name].kind, name)
        setattr(cls, name, delegate)
        return delegate

    def _look_up(self, name: str) -> Any:
        if name not in self._names:
            raise AttributeError(self._no_such_name(name), name=name, obj=self)
        return self._keep(name).__get__(self)

    @abstractmethod
    def _target(self, name: str) -> Any:
        """The object whose attribute ``name`` is assigned to."""

    def _assign(self, name: str, value: object) -> None:
        entry = self._names.get(name)
        if entry is not None and entry.kind is Kind.WRITABLE:
            setattr(self._target(name), name, value)
        elif entry is not None:
            raise AttributeError(f"{name!r} of {self!r} cannot be assigned to.", name=name, obj=self)
        else:
            raise AttributeError(self._no_such_name(name), name=name, obj=self)

    if TYPE_CHECKING:  # with either of these, a type checker would take every name for known
        ...
    else:
        __getattr__ = _look_up
        __setattr__ = _assign

    def __copy__(self) -> Self:
        """Itself, as of a function: it is what every part of the program reaches the same session by."""
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __dir__(self) -> list[str]:
        return sorted({*object.__dir__(self), *self._names})

    def _no_such_name(self, name: str) -> str:
        reason = self._refused.get(name, "it is not one of the names that are delegated")
        return f"{type(self).__name__} has no {name!r}: {reason}. `Session()` returns the real session."


def delegate(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Add ``method``, one of your own session class, to the proxy, under the same name, with its types::

        class HeroSession(AsyncScopedSession[SQLModelSession]):
            exec = delegate(SQLModelSession.exec)

    A coroutine method is guarded as ``execute()`` is: one operation at a time. Returns what stands for it in
    the class body.

    .. versionadded:: 0.1
    """
    added: Any = Added(Kind.OPERATION if iscoroutinefunction(method) else Kind.METHOD)
    return added  # type: ignore[no-any-return]  # a type checker shall see the method itself
