"""Deadlines: many in one event loop, with one timer for all."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVarTuple

import pytest

from scoped_async._budget import Deadlines, deadlines_of

Ts = TypeVarTuple("Ts")


class CountingLoop(asyncio.SelectorEventLoop):
    """An event loop that counts its timers, and whose clock is put forward to the next of them."""

    timers = 0
    now = 0.0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Any = None) -> Any:
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)


@pytest.fixture
def rung() -> list[str]:
    """The names of the deadlines that have passed, in order."""
    return []


def run(body: Callable[[Deadlines, CountingLoop], None], until: float) -> CountingLoop:
    """Set deadlines, and let the time pass in steps of one second."""

    async def main() -> None:
        body(deadlines_of(loop), loop)
        while loop.now < until:
            loop.now += 1
            for _ in range(3):
                await asyncio.sleep(0)

    loop = CountingLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(main())
    return loop


class TestDeadlines:
    """What is not dropped before is called once, when its time has come."""

    def test_each_at_its_time(self, rung: list[str]) -> None:
        def body(deadlines: Deadlines, loop: CountingLoop) -> None:
            for name, when in (("b", 20), ("a", 10), ("c", 30), ("d", 30)):
                deadlines.set(partial(rung.append, name), when)

        run(body, 9)
        assert rung == []
        run(body, 25)
        assert rung == ["a", "b"]
        rung.clear()
        run(body, 100)
        assert rung == ["a", "b", "c", "d"]

    def test_not_what_was_dropped(self, rung: list[str]) -> None:
        def body(deadlines: Deadlines, loop: CountingLoop) -> None:
            dropped, kept = (partial(rung.append, name) for name in ("dropped", "kept"))
            deadlines.set(dropped, 10)
            deadlines.set(kept, 20)
            deadlines.drop(dropped)
            deadlines.drop(dropped)

        run(body, 100)
        assert rung == ["kept"]

    def test_one_that_raises_stops_no_other(self, rung: list[str]) -> None:
        def fail() -> None:
            raise LookupError("in a deadline")

        def body(deadlines: Deadlines, loop: CountingLoop) -> None:
            loop.set_exception_handler(lambda _, context: rung.append(str(context["exception"])))
            deadlines.set(fail, 10)
            deadlines.set(partial(rung.append, "other"), 10)

        run(body, 100)
        assert rung == ["in a deadline", "other"]

    def test_one_timer_is_enough(self) -> None:
        def body(deadlines: Deadlines, loop: CountingLoop) -> None:
            for _ in range(1000):
                expire = partial(pytest.fail, "it was dropped")
                deadlines.set(expire, 10)
                deadlines.drop(expire)

        assert run(body, 100).timers == 1

    def test_earlier_ones_leave_no_chain_of_timers(self, rung: list[str]) -> None:
        def body(deadlines: Deadlines, loop: CountingLoop) -> None:
            for when in range(50, 0, -1):
                deadlines.set(partial(rung.append, str(when)), when)
            deadlines.set(partial(rung.append, "last"), 90)

        loop = run(body, 100)
        assert rung == [*map(str, range(1, 51)), "last"]
        assert loop.timers == 100, "50 each earlier than the one before, and one after each of them"

    def test_each_loop_has_its_own(self) -> None:
        first, second = CountingLoop(), CountingLoop()
        try:
            deadlines = deadlines_of(first)
            assert deadlines_of(second) is not deadlines
            assert deadlines_of(first) is deadlines
        finally:
            first.close()
            second.close()

    def test_a_loop_that_is_closed_over_one_is_let_go_of(self) -> None:
        loop = CountingLoop()
        deadlines_of(loop).set(partial(loop.stop), 10)
        loop.close()
        ended = weakref.ref(loop)
        del loop
        gc.collect()
        assert ended() is None

    def test_the_loop_is_let_go_of(self, rung: list[str]) -> None:
        def body(deadlines: Deadlines, loop: CountingLoop) -> None:
            deadlines.set(partial(rung.append, "never"), 1000)

        ended = weakref.ref(run(body, 1))
        gc.collect()
        assert ended() is None
