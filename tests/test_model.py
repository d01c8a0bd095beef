"""Random sequences over up to four tasks, held against the model of the laws in ``unit_model``."""

import asyncio
from collections.abc import Coroutine, Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.ext.asyncio import create_async_engine

from scoped_async import current_scope
from side_by_side import SideBySide, World

WHO = st.integers(0, 9)
"""Which actor: up to 7 one that is in a scope that is open, if any is."""
SELDOM = st.sampled_from([False, False, False, True])
KINDS = st.sampled_from(["new", "new", "join", "nested", "nested", "mandatory", "savepoint"])
BACK = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 5])
HOW = st.sampled_from(["clean", "clean", "fail", "cancelled"])


@pytest.fixture
def world(postgres_url: str) -> Iterator[World]:
    engine = create_async_engine(postgres_url, pool_size=30, max_overflow=0, pool_timeout=5)
    observer = create_async_engine(postgres_url, pool_size=1, isolation_level="AUTOCOMMIT")
    with asyncio.Runner() as runner:
        yield World(runner, engine, observer)
        runner.run(engine.dispose())
        runner.run(observer.dispose())


class Sequence(RuleBasedStateMachine):
    """Each rule lets one task do one step, in the package and in the model, and compares what is left."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.both = SideBySide(world)
        self.sound = True
        self.run(self.both.begin())

    @initialize(commit=st.booleans())
    def open_the_first(self, commit: bool) -> None:
        self.run(self.both.open(self.both.actors[0], "new", commit))

    def run(self, step: Coroutine[Any, Any, None]) -> None:
        """One step, which leaves the two in agreement."""
        self.sound = False
        self.world.runner.run(step)
        self.world.runner.run(self.both.compare())
        self.sound = True

    # -- the steps

    @rule(who=WHO)
    @precondition(lambda self: len(self.both.actors) < 4)
    def spawn(self, who: int) -> None:
        self.run(self.both.spawn(self.both.actor(who)))

    @rule(who=WHO, kind=KINDS, commit=st.booleans())
    def open(self, who: int, kind: str, commit: bool) -> None:
        self.run(self.both.open(self.both.actor(who), kind, commit))

    @rule(who=WHO, back=BACK, how=HOW)
    @precondition(lambda self: self.both.real)
    def leave(self, who: int, back: int, how: str) -> None:
        """``back``: its own frames from the newest on, then those that others have opened."""
        actor = self.both.actor(who)
        own = self.both.own(actor)
        frames = own + [frame for frame in self.both.real if frame not in own]
        self.run(self.both.leave(actor, frames[back % len(frames)], how))

    @rule(who=WHO, breaks=SELDOM)
    @precondition(lambda self: self.both.inside())
    def write(self, who: int, breaks: bool) -> None:
        self.run(self.both.write(self.both.actor(who), breaks))

    @rule(who=WHO)
    @precondition(lambda self: self.both.inside())
    def watch(self, who: int) -> None:
        self.run(self.both.watch(self.both.actor(who)))

    @rule(who=WHO, through=st.sampled_from(["Session", "scope"]), cancelled=SELDOM)
    @precondition(lambda self: self.both.inside())
    def commit(self, who: int, through: str, cancelled: bool) -> None:
        order = self.world.Session.commit if through == "Session" else lambda: current_scope().commit()
        self.run(self.both.do(self.both.actor(who), order, self.both.model.commit, cancelled=cancelled))

    @rule(who=WHO, through=st.sampled_from(["Session", "scope"]), cancelled=SELDOM)
    @precondition(lambda self: self.both.inside())
    def rollback(self, who: int, through: str, cancelled: bool) -> None:
        order = self.world.Session.rollback if through == "Session" else lambda: current_scope().rollback()
        step = partial(self.both.model.roll_back, clear=through == "scope")
        self.run(self.both.do(self.both.actor(who), order, step, cancelled=cancelled))

    @rule(who=WHO)
    @precondition(lambda self: self.both.inside())
    def mark(self, who: int) -> None:
        async def order() -> None:
            current_scope().rollback_only = True

        self.run(self.both.do(self.both.actor(who), order, self.both.model.mark))

    @rule(who=WHO)
    @precondition(lambda self: len(self.both.actors) > 2)
    def cancel(self, who: int) -> None:
        """A task that is cancelled leaves what it has open, and ends."""
        self.run(self.both.cancel(self.both.actor(who)))

    def teardown(self) -> None:
        try:
            for actor in reversed(self.both.actors) if self.sound else ():
                for frame in self.both.own(actor):
                    self.run(self.both.leave(actor, frame, "clean"))
        finally:
            self.world.runner.run(self.both.end(sound=self.sound))


def run(world: World, **options: Any) -> None:
    class InThisWorld(Sequence):
        def __init__(self) -> None:
            super().__init__(world)

    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        InThisWorld, settings=settings(deadline=None, database=None, suppress_health_check=slow, **options)
    )


class TestTheModel:
    """Laws 4, 8, 9, 11, 18 to 20 and 23 to 27, in any order of steps over up to four tasks."""

    @pytest.mark.timeout(600)  # a failure is made shorter first, which takes a while
    def test_a_few_sequences(self, world: World) -> None:
        run(world, derandomize=True, max_examples=30, stateful_step_count=30)

    @pytest.mark.proof
    @pytest.mark.timeout(1200)
    def test_many_sequences(self, world: World) -> None:
        run(world, max_examples=600, stateful_step_count=50)
