"""What the laws say of a sequence of steps: what is stored, which callbacks ran, what each step raises.

It knows no session and no ContextVar: a frame is whatever an actor opens, and a scope holds its work in
layers, one for each open savepoint.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlalchemy.exc import IntegrityError, InvalidRequestError

from scoped_async import ConcurrentUseError, NoScopeError, RollbackOnlyError, ScopeClosedError, ScopeError

Refusal = type[Exception] | None
"""What a step raises, ``None``: nothing."""
IDLE, BEGUN, CONNECTED = range(3)
"""How far the transaction of a scope is."""


@dataclass
class Layer:
    """The work since a savepoint, or since the last outcome."""

    lines: list[str] = field(default_factory=list)
    watched: list[str] = field(default_factory=list)
    breaks: bool = False
    """Whether the COMMIT will refuse it."""


@dataclass(eq=False)
class Frame:
    """A scope (``new``), a block (``join``, ``nested``) or a ``savepoint`` of ``begin_nested()``."""

    kind: str
    opener: object
    outer: "Frame | None"
    commit: bool = False
    left: bool = False
    failed: bool = False
    """Whether a block that joined it has failed."""
    by_hand: bool = False
    """Whether ``rollback_only`` was set."""
    layer: Layer = field(default_factory=Layer)
    before: int = IDLE
    """How far the transaction was when a nested block began."""
    transaction: int = IDLE
    layers: list[Layer] = field(default_factory=list)
    opened: "list[Frame]" = field(default_factory=list)
    """Of a scope: the blocks and savepoints in it that are not left."""

    @property
    def scope(self) -> "Frame":
        return self if self.kind == "new" or self.outer is None else self.outer.scope

    @property
    def is_open(self) -> bool:
        return not self.left and not self.scope.left

    @property
    def has_block(self) -> bool:
        return any(frame.kind != "savepoint" for frame in self.opened)

    def around(self) -> "Iterator[Frame]":
        """The frames of the same scope, from this one outwards."""
        yield self
        if self.kind != "new" and self.outer is not None:
            yield from self.outer.around()


def nearest_open(frame: Frame | None) -> Frame | None:
    while frame is not None and not frame.is_open:
        frame = frame.outer
    return frame


class Model:
    """The database, the log of the callbacks, and what is current for each actor."""

    def __init__(self) -> None:
        self.stored: set[str] = set()
        self.log: list[str] = []
        self.current: dict[object, Frame | None] = {}

    def refusal(self, actor: object) -> Refusal:
        """Laws 8 and 9: what whoever has no scope gets, or a dead one."""
        frame = self.current[actor]
        return NoScopeError if frame is None else ScopeClosedError if frame.scope.left else None

    def scope_of(self, actor: object) -> Frame:
        frame = self.current[actor]
        assert frame is not None
        return frame.scope

    # -- what is done in a scope

    def write(self, actor: object, line: str, *, breaks: bool) -> set[str]:
        """Returns what the actor must see: what is committed, and the work of its scope."""
        scope = self.scope_of(actor)
        scope.transaction = CONNECTED
        scope.layers[-1].lines.append(line)
        scope.layers[-1].breaks |= breaks
        return self.stored.union(*(layer.lines for layer in scope.layers))

    def watch(self, actor: object, name: str) -> None:
        self.scope_of(actor).layers[-1].watched.append(name)

    def mark(self, actor: object) -> None:
        frame = nearest_open(self.current[actor])
        assert frame is not None
        frame.by_hand = True

    def commit(self, actor: object) -> Refusal:
        """Law 26 while a block is open, law 25 for a scope that is marked."""
        scope = self.scope_of(actor)
        if scope.has_block:
            return ScopeError
        if scope.failed or scope.by_hand:
            return RollbackOnlyError
        return self._commit(scope)

    def roll_back(self, actor: object, *, clear: bool) -> Refusal:
        """By ``scope.rollback()``, which clears the mark, or by ``Session.rollback()``."""
        scope = self.scope_of(actor)
        if scope.has_block:
            return ScopeError
        if clear:
            scope.failed = scope.by_hand = False
        self._settle(scope, "rolled back")
        return None

    # -- open and leave

    def open(self, actor: object, kind: str, *, commit: bool = False) -> "Frame | Refusal":
        """The frame, or what the entry raises."""
        current = self.current[actor]
        if kind == "savepoint" or (kind == "mandatory" and self.refusal(actor)):
            if refusal := self.refusal(actor):
                return NoScopeError if kind == "mandatory" else refusal
        elif kind == "new" or self.refusal(actor):
            scope = Frame("new", actor, current, commit)
            scope.layers = [scope.layer]
            self.current[actor] = scope
            return scope
        outer = nearest_open(current)
        assert outer is not None
        frame = Frame(kind, actor, outer)
        scope = frame.scope
        if kind in ("nested", "savepoint"):
            innermost = next((each for each in scope.opened if each.layer is scope.layers[-1]), None)
            if innermost is not None and not stands_around(innermost, actor, outer):
                return ConcurrentUseError
            if kind == "savepoint":
                scope.transaction = max(scope.transaction, BEGUN)
            elif scope.transaction:  # a SAVEPOINT is set
                scope.transaction = CONNECTED
            frame.before = scope.transaction
            scope.layers.append(frame.layer)
        scope.opened.append(frame)
        if kind != "savepoint":
            self.current[actor] = frame
        return frame

    def leave(self, actor: object, frame: Frame, *, failing: bool) -> Refusal:
        """In the Context of ``actor``, whoever opened it."""
        scope = frame.scope
        if frame.kind == "new":
            refusal = self._leave_scope(frame, failing)
        elif scope.left:
            refusal = None if failing and frame.kind != "savepoint" else ScopeClosedError
        else:
            scope.opened.remove(frame)
            refusal = self._leave_part(frame, failing)
        frame.left = True
        if frame.kind != "savepoint":
            self.current[actor] = nearest_open(self.current[actor])
        # An exception that is on its way is never replaced.
        return None if failing and frame.kind != "savepoint" else refusal

    def _leave_scope(self, scope: Frame, failing: bool) -> Refusal:
        """Laws 18, 20 and 25."""
        refusal: Refusal = None
        if scope.commit and not failing:
            refusal = RollbackOnlyError if scope.failed else ScopeError if scope.has_block else None
            if refusal is None and not scope.by_hand:
                return self._commit(scope)
        lost = failing or scope.failed or scope.by_hand or scope.transaction or refusal
        self._settle(scope, "rolled back" if lost else "committed")
        return refusal

    def _leave_part(self, frame: Frame, failing: bool) -> Refusal:
        """Law 26, and a block that joins by law 25."""
        scope = frame.scope
        if frame.kind == "join" or frame.kind == "mandatory":
            if failing or frame.by_hand:
                self._spoil(frame)
            return None
        index = next((i for i, layer in enumerate(scope.layers) if layer is frame.layer), None)
        if index is None:  # the savepoint is gone with one around it
            if frame.kind == "savepoint":
                return InvalidRequestError
            self._spoil(frame)
            return ScopeError
        ended = scope.layers[index:]
        del scope.layers[index:]
        if failing or frame.failed or frame.by_hand:
            self.log += [f"{name} rolled back" for layer in ended for name in layer.watched]
            if frame.before == IDLE:  # else its connection stays
                scope.transaction = IDLE
            return RollbackOnlyError if frame.failed else None
        for layer in ended:
            scope.layers[-1].lines += layer.lines
            scope.layers[-1].watched += layer.watched
            scope.layers[-1].breaks |= layer.breaks
        return None

    def _spoil(self, frame: Frame) -> None:
        """What failed is for the nested block around it to undo, else for the scope."""
        assert frame.outer is not None
        around = (each for each in frame.outer.around() if each.kind == "new" or each.kind == "nested")
        next(each for each in around if each.is_open).failed = True

    def _commit(self, scope: Frame) -> Refusal:
        if any(layer.breaks for layer in scope.layers):
            self._settle(scope, "rolled back")
            return IntegrityError
        self.stored.update(*(layer.lines for layer in scope.layers))
        self._settle(scope, "committed")
        return None

    def _settle(self, scope: Frame, fate: str) -> None:
        """Law 23: the callbacks run, and the work since the last outcome is over."""
        self.log += [f"{name} {fate}" for layer in scope.layers for name in layer.watched]
        scope.layers = [Layer()]
        scope.transaction = IDLE


def stands_around(innermost: Frame, actor: object, frame: Frame) -> bool:
    """Whether a savepoint of ``actor`` in ``frame`` stands in ``innermost``; law 26."""
    if innermost.kind == "savepoint":
        return innermost.opener is actor
    return any(each is innermost for each in frame.around())
