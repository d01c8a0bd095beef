"""What is current: the one ContextVar, the frames that it holds, and the unit that they share."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextvars import ContextVar, Token
from typing import Any, NamedTuple, Protocol

from ._callbacks import Callbacks
from ._held import Held


class Nothing:
    """What a unit holds of a resource that was not touched: nothing that could be used in any loop."""

    loop = object()


NOTHING = Nothing()


_NONE_OPEN: list[Any] = []


class Unit(dict[object, Held]):
    """What a scope holds: objects by resource in the order of first use, callbacks, blocks and marks."""

    # Defaults of the class, which cost a unit nothing. The lists are replaced, not added to.
    registered: Callbacks | None = None
    """The callbacks, as soon as something has asked for them."""
    savepoints: "list[OpenSavepoint]" = _NONE_OPEN
    """The nested blocks and ``begin_nested()`` that are open, the innermost last."""
    blocks: "list[Frame]" = _NONE_OPEN
    """The joined and nested blocks that are open, the innermost last."""
    rollback_only = False
    """Set by hand."""
    failure: BaseException | None = None
    """What a joined block failed with."""
    committed = False
    """Whether something of it was committed."""
    concluded = False
    """Whether its outcome is known, and callbacks are all that is left: nothing can join it any more."""

    def __missing__(self, resource: object) -> Any:
        return NOTHING

    __eq__ = object.__eq__  # a unit is itself: two empty ones are not the same
    __hash__ = object.__hash__  # type: ignore[assignment]  # dict sets it to None

    @property
    def callbacks(self) -> Callbacks:
        """Made when first asked for: most units have none."""
        if self.registered is None:
            self.registered = Callbacks()
        return self.registered

    @property
    def open_savepoints(self) -> list[object]:
        """The blocks and savepoints that are open, whoever has set them."""
        return [*self.blocks, *(savepoint for held in self.values() for savepoint in held.savepoints)]

    @property
    def marked(self) -> bool:
        """Whether the work can only be rolled back."""
        return self.rollback_only or self.failure is not None

    @property
    def has_callbacks(self) -> bool:
        """Whether there is one that has not run."""
        return bool(self.registered)

    @property
    def must_conclude(self) -> bool:
        """Whether leaving needs more than to close what is held."""
        return bool(self.registered or self.blocks) or self.failure is not None

    def is_spent(self) -> bool:
        """Whether leaving needs nothing at all but to let go of what is held."""
        if self.registered or self.blocks or self.failure is not None:
            return False
        for held in self.values():  # noqa: SIM110  # a generator would cost every scope twice as much
            if not held.is_spent():
                return False
        return True

    def take(self) -> "Unit":
        """Move everything to a unit of its own, so that whoever shares this one finds nothing more."""
        if self.blocks is _NONE_OPEN:  # no block has ever shared it
            return self
        taken = Unit(self)
        vars(taken).update(vars(self))
        self.clear()
        return taken


class State(Unit):
    """What a scope holds while it holds nothing: the state that it is in. It is never written to."""

    def is_spent(self) -> bool:
        return False  # leaving needs to be refused, but for `UNUSED`


NEW, UNUSED, CLOSING, CLOSED = State(), State(), State(), State()


class OpenSavepoint(Protocol):
    """What keeps a savepoint open: a nested block, or a ``begin_nested()``."""

    @property
    def is_open(self) -> bool: ...
    def stands_around(self, frame: "Frame") -> bool:
        """Whether a savepoint opened in ``frame``, by this task, would stand within this one."""
        ...


class Frame:
    """What the ContextVar holds: a scope, or a block within one. The base itself stands for no scope."""

    __slots__ = ("__weakref__", "unit")
    unit: Unit

    @property
    def owner(self) -> "Owner | None":
        """The scope that this frame belongs to."""
        return None

    @property
    @abstractmethod
    def outer(self) -> "Frame":
        """The frame that this one was opened in."""

    @property
    def is_open(self) -> bool:
        """Whether the block of this frame has not ended."""
        return True

    def unit_in_use(self) -> Unit | None:
        """What operations in this frame use; ``None`` when its scope has ended, or is about to."""
        return None

    @property
    @abstractmethod
    def marked(self) -> bool:
        """Whether the work of this frame can only be rolled back."""

    def mark(self) -> None:
        """Let the work of this frame be rolled back at its end."""


class Options(NamedTuple):
    """How a scope is to run, as given to ``scope()``."""

    commit: bool = False
    readonly: bool = False
    name: str | Callable[[], str] | None = None
    close_timeout: float | None = 10.0


class Owner(Frame):
    """A scope, as far as its frames, its sessions and the errors need to know it."""

    __slots__ = ("loop", "options")
    loop: asyncio.AbstractEventLoop | None
    options: Options

    @property
    def readonly(self) -> bool:
        """Whether its sessions may only read."""
        return self.options.readonly

    @property
    @abstractmethod
    def name(self) -> str:
        """What the errors call it."""

    @property
    @abstractmethod
    def opened_at(self) -> str:
        """Where it was opened: ``"app.py:41"``."""

    def here(self) -> Frame:
        """The innermost frame of this scope in this Context."""
        frame = nearest_open(current.get())
        return frame if frame.owner is self else self


NO_SCOPE = Frame()  # type: ignore[abstract]  # of which nobody asks what is abstract
NO_SCOPE.unit = UNUSED

current: ContextVar[Frame] = ContextVar("scoped_async.current", default=NO_SCOPE)


def nearest_open(frame: Frame) -> Frame:
    """``frame``, or the nearest one around it that is open; `NO_SCOPE` without one."""
    while not frame.is_open:
        frame = frame.outer
    return frame


def leave(frame: Frame, token: "Token[Frame]") -> None:
    """Make the nearest open frame current, in the Context that leaves ``frame``, whichever that is."""
    here = current.get()
    if here is frame:
        try:  # noqa: SIM105  # suppress() would cost every scope that holds something
            current.reset(token)
        except ValueError:  # entered in another Context, of which this one is a copy
            pass
        here = current.get()
    if (open_here := nearest_open(here)) is not here:
        current.set(open_here)


def frames_of(owner: Owner | None, frame: Frame) -> Iterator[Frame]:
    """``frame`` and those around it, as far as they belong to ``owner``."""
    while frame.owner is owner and owner is not None:
        yield frame
        frame = frame.outer
