"""Keep what other tasks set on objects while a commit is under way, which SQLAlchemy would forget."""

# Nothing of SQLAlchemy that is public tells of it.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false

from collections.abc import Coroutine, Generator, Iterable, Sequence
from functools import partial
from types import coroutine
from typing import Any, TypeVar

from sqlalchemy import ClauseElement, event
from sqlalchemy.orm import InstanceState, LoaderCallableStatus, PassiveFlag, Session

T = TypeVar("T")
NO_VALUE = LoaderCallableStatus.NO_VALUE
_HOOK = "_modified_event"
"""What is called on the state of an object before an attribute of it changes, in whatever way."""


class Meanwhile:
    """What other tasks set on the objects of sessions while these are committed.

    A flush counts its objects as stored, as they are at its end, and a commit may expire them all; so what is
    set between the statement and then would be lost. It is made pending again.
    """

    def __init__(self, sessions: Sequence[Session]) -> None:
        self.sessions = sessions
        self.away = False
        """Whether the commit waits, so that what happens is another task's doing."""
        self.changes: dict[tuple[InstanceState[Any], str], Change] = {}
        self.fresh: set[Change] = set()
        """Those of the wait that is on."""
        self.states: set[InstanceState[Any]] = set()
        self.seen: dict[Session, object] = {}
        self.flushing: list[Session] = []

    @coroutine
    def attend(self, commit: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
        """Await ``commit``."""
        error: BaseException | None = None
        try:
            while True:
                try:
                    awaited = commit.send(None) if error is None else commit.throw(error)
                except StopIteration as end:
                    return end.value  # type: ignore[no-any-return]
                finally:
                    error = None  # its traceback leads to this frame
                warned = self._listen()
                self.away = True
                try:
                    yield awaited
                except BaseException as thrown:
                    error = thrown
                self.away = False
                for session in warned:
                    session._warn_on_events = True
                while self.fresh:
                    self.fresh.pop().read()
        finally:
            self._stop_listening()

    def put_back(self) -> None:
        """Make pending again what was set, with a transaction for it: its session may be in none by now."""
        for session in self.sessions:
            self._tell(session)
            if session._transaction is None and not session._is_clean():
                session._autobegin_t()

    def _listen(self) -> list[Session]:
        """Hear of what is set from now on; returns the sessions in the middle of a flush.

        They do not warn of it until they go on: it is of no harm any more.
        """
        warned: list[Session] = []
        for session in self.sessions:
            seen = next(reversed(session._new), None), len(session.identity_map)
            if seen != self.seen.get(session):
                self.seen[session] = seen
                self._listen_to(session._new)
                self._listen_to(session.identity_map.all_states())
            if session._warn_on_events:
                warned.append(session)
                session._warn_on_events = False
        for session in warned:
            if session not in self.flushing:
                self.flushing.append(session)
                event.listen(session, "after_flush", self._after_flush)
                event.listen(session, "after_flush_postexec", self._before_next_flush)
        return warned

    def _listen_to(self, states: Iterable[InstanceState[Any]]) -> None:
        for state in states:
            self.states.add(state)
            state.__dict__[_HOOK] = partial(self._hear, state)

    def _stop_listening(self) -> None:
        for state in self.states:
            state.__dict__.pop(_HOOK, None)
        for session in self.flushing:
            event.remove(session, "after_flush", self._after_flush)
            event.remove(session, "after_flush_postexec", self._before_next_flush)

    def _hear(
        self, state: InstanceState[Any], dict_: Any, attribute: Any, previous: Any, *how: Any, **options: Any
    ) -> None:
        if self.away and attribute is not None:
            change = self.changes.get((state, attribute.key))
            if change is None:
                kind = WriteOnlyChange if attribute.dynamic else Change
                change = self.changes[state, attribute.key] = kind(state, attribute, previous)
            if change not in self.fresh:
                self.fresh.add(change)
                change.begin()
        InstanceState._modified_event(state, dict_, attribute, previous, *how, **options)

    def _after_flush(self, session: Session, flush: Any) -> None:
        for change in [change for change in self.changes.values() if change.state.session is session]:
            state = change.state
            if change.was_written(flush):
                del self.changes[state, change.attribute.key]
            if state.modified and state not in flush.states:  # SQLAlchemy does the same, with a warning
                state._commit_all(state.dict, session.identity_map)

    def _before_next_flush(self, session: Session, _: Any) -> None:
        if session._new:  # which may be what was set: to be written together
            self._tell(session)

    def _tell(self, session: Session) -> None:
        for change in self.changes.values():
            if session.identity_map.contains_state(change.state):
                change.tell()


class Change:
    """An attribute that another task has set."""

    def __init__(self, state: InstanceState[Any], attribute: Any, previous: Any) -> None:
        self.state = state
        self.instance = state.obj()  # or it may be collected
        self.attribute = attribute
        self.value: Any = NO_VALUE
        self.previous: Any = NO_VALUE  # of a column, which is then written whatever the flush has written
        if attribute.collection:
            collection = state.dict.get(attribute.key)
            self.previous = NO_VALUE if collection is None else attribute.copy(collection)
        elif attribute.active_history:
            self.previous = previous

    def begin(self) -> None:
        """It is about to be set."""

    def read(self) -> None:
        """It was set."""
        self.value = self.state.dict.get(self.attribute.key, NO_VALUE)

    def was_written(self, flush: Any) -> bool:
        """Whether the flush is known to have written it; learn from it what it has."""
        key = self.attribute.key
        if isinstance(self.value, ClauseElement):
            return self.state.dict.get(key) is not self.value
        if (cached := flush.attributes.get(("history", self.state, key))) and self.attribute.uses_objects:
            written = list(cached[0].non_deleted())
            self.previous = written if self.attribute.collection else next(iter(written), None)
        return False

    def tell(self) -> None:
        """Tell SQLAlchemy once more, which may have forgotten or expired it."""
        attribute, state, dict_ = self.attribute, self.state, self.state.dict
        if attribute.collection:
            if self.value is NO_VALUE:  # it is not loaded: the other side knows
                return
            self.value._sa_adapter.invalidated = False
        if self.value is not NO_VALUE:
            dict_[attribute.key] = self.value
        state.committed_state.pop(attribute.key, None)
        state._modified_event(dict_, attribute, self.previous)


class WriteOnlyChange(Change):
    """One of a collection of which SQLAlchemy has nothing but what was added and removed."""

    others: Any
    """What was added and removed before, which the flush may not have written yet."""

    def __init__(self, state: InstanceState[Any], attribute: Any, previous: Any) -> None:
        super().__init__(state, attribute, previous)
        self.value = self._nothing()

    def _nothing(self) -> Any:
        return self.attribute.collection_history_cls(self.attribute, self.state, PassiveFlag.PASSIVE_NO_FETCH)

    def begin(self) -> None:
        committed, key = self.state.committed_state, self.attribute.key
        self.others, committed[key] = committed[key], self.value

    def read(self) -> None:
        self.state.committed_state[self.attribute.key] = self.others

    def was_written(self, flush: Any) -> bool:
        return False

    def tell(self) -> None:
        state = self.state
        state.committed_state[self.attribute.key], self.value = self.value, self._nothing()
        state._modified_event(state.dict, self.attribute, NO_VALUE)
