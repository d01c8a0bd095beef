"""What each promise of an unused scope costs, added one by one to a hand-written class.

This is why the bar of an unused scope is not met: what stands here is a scope without what it holds, and
every line of it is a law. Run by ``python -m benchmarks.parts``.
"""

import asyncio
import sys
import warnings
from collections.abc import Awaitable, Callable
from contextvars import ContextVar, Token
from types import CodeType
from typing import Any

from . import counting
from .core import hand_written_class, touched_scope, unused_scope
from .database import sessions

Loop = Callable[[int], Awaitable[None]]

current: ContextVar[Any] = ContextVar("current")
OPEN, CLOSED = object(), object()


class WithState:
    """Entered once, and closed for everybody afterwards (laws 5 and 8)."""

    __slots__ = ("state", "token")
    state: object
    token: Token[object] | None

    def __init__(self) -> None:
        self.state = None

    async def __aenter__(self) -> "WithState":
        if self.state is not None:
            raise RuntimeError
        self.state = OPEN
        self.token = current.set(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.state is not OPEN:
            raise RuntimeError
        self.state = CLOSED
        assert self.token is not None
        current.reset(self.token)
        self.token = None


class InAnyOrder(WithState):
    """Left in another order or Context than it was entered (law 4)."""

    __slots__ = ()

    async def __aexit__(self, *exc: object) -> None:
        if self.state is not OPEN:
            raise RuntimeError
        self.state = CLOSED
        token = self.token
        assert token is not None
        if current.get() is not self or token.old_value is not Token.MISSING:
            raise RuntimeError
        current.reset(token)
        self.token = None


class Placed(InAnyOrder):
    """Knows its loop and where it was opened (laws 8, 13 and 15)."""

    __slots__ = ("code", "instruction", "loop")
    code: CodeType
    instruction: int

    async def __aenter__(self) -> "Placed":
        if self.state is not None:
            raise RuntimeError
        self.loop = asyncio._get_running_loop()
        self.state = OPEN
        self.token = current.set(self)
        return self


class Warned(Placed):
    """Says so when it is collected while it is open (law 13)."""

    __slots__ = ()

    def __del__(self) -> None:
        if self.state is OPEN:
            warnings.warn("never left", ResourceWarning, stacklevel=2)


def open_here(cls: type[Placed]) -> Placed:
    """What ``scope()`` does: look where it is called."""
    frame = sys._getframe(1)
    self = cls()
    self.code = frame.f_code
    self.instruction = frame.f_lasti
    return self


def loop(make: Callable[[], Any]) -> Loop:
    async def run(n: int) -> None:
        for _ in range(n):
            async with make():
                pass

    return run


async def with_place(n: int) -> None:
    for _ in range(n):
        async with open_here(Placed):
            pass


async def with_warning(n: int) -> None:
    for _ in range(n):
        async with open_here(Warned):
            pass


PARTS: dict[str, Loop] = {
    "a hand-written class": hand_written_class,
    "entered once, closed for everybody (laws 5, 8)": loop(WithState),
    "left in any order and Context (law 4)": loop(InAnyOrder),
    "knows its loop and where it was opened (laws 8, 13, 15)": with_place,
    "warns when it is collected open (law 13)": with_warning,
    "scope(): the same with its options": unused_scope,
}


async def session_alone(n: int) -> None:
    for _ in range(n):
        sessions()


WITH_SESSION: dict[str, Loop] = {
    "a session that is made and dropped": session_alone,
    "scope(), session touched": touched_scope,
}


def main() -> None:
    """Print the instructions of each, and what it adds."""
    before = 0.0
    for name, instructions in counting.count("benchmarks.parts:PARTS", dict.fromkeys(PARTS, 500)):
        print(f"{instructions:8,.0f}  {instructions - before:+8,.0f}  {name}")
        before = instructions
    for name, instructions in counting.count(
        "benchmarks.parts:WITH_SESSION", dict.fromkeys(WITH_SESSION, 200)
    ):
        print(f"{instructions:8,.0f}            {name}")


if __name__ == "__main__":
    main()
