"""Wall time: what is compared takes turns, round by round, so that all see the same machine."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterable, Mapping
from statistics import median, quantiles
from time import perf_counter
from typing import Any

Loop = Callable[[int], Awaitable[None]]
Track = Callable[..., Iterable[Any]]


def repeat(function: Callable[[], Awaitable[None]]) -> Loop:
    """The loop of ``function``."""

    async def loop(n: int) -> None:
        for _ in range(n):
            await function()

    return loop


def in_turn(names: list[Any], number: int) -> list[Any]:
    """``names``, beginning with another one in each round."""
    shift = number % len(names)
    return names[shift:] + names[:shift]


async def take_turns(
    loops: Mapping[str, Loop], *, rounds: int, seconds: float, track: Track, title: str
) -> dict[str, dict[str, float]]:
    """Time ``loops`` for about ``seconds`` each in every round, beside the first of them.

    Returns for each the microseconds per turn, ``best`` and ``median`` of the rounds; the ``ratio`` to the
    first in the same round: its median, and the quartiles as ``low`` and ``high``; and the median of the
    microseconds ``added`` to the first in the same round.
    """
    gc.collect()
    gc.freeze()  # what is there does not belong to what is measured
    lengths = {name: await _length(loop, seconds) for name, loop in loops.items()}
    names = list(loops)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in track(range(rounds), description=title):
        for name in in_turn(names, number):
            gc.collect()
            times[name].append(await _time(loops[name], lengths[name]))
    return {name: summary(times[name], times[names[0]]) for name in names}


def summary(times: list[float], baseline: list[float]) -> dict[str, float]:
    """What is said of the ``times`` of one, beside those of the ``baseline`` in the same rounds."""
    pairs = list(zip(times, baseline, strict=True))
    ratios = [time / other for time, other in pairs]
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
    return {
        "best": min(times) * 1e6,
        "median": median(times) * 1e6,
        "ratio": median(ratios),
        "low": low,
        "high": high,
        "added": median(time - other for time, other in pairs) * 1e6,
        "rounds": len(times),
    }


async def _length(loop: Loop, seconds: float) -> int:
    await loop(3)  # warms the caches and the pool
    return max(1, round(seconds / await _time(loop, 3)))


async def _time(loop: Loop, n: int) -> float:
    start = perf_counter()
    await loop(n)
    return (perf_counter() - start) / n


def scopes(*, rounds: int, seconds: float, track: Track) -> dict[str, Any]:
    """The four functions of each peer, and the pairs of the bars."""
    from . import core
    from .database import engine
    from .peers import installed

    modules = {peer.title: peer.load() for peer in installed()}

    async def run() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in ("unused", "touched", "select", "insert"):
            loops = {title: repeat(getattr(module, name)) for title, module in modules.items()}
            found[name] = await take_turns(
                loops, rounds=rounds, seconds=seconds, track=track, title=f"Time: {name}"
            )
        for name in ("select", "insert", "request, unused"):
            pair = {key: loop for key, loop in core.ALL.items() if key.startswith(f"{name}:")}
            found[f"{name}, bar"] = await take_turns(
                pair, rounds=max(rounds, 30), seconds=2 * seconds, track=track, title=f"Time: {name} (bar)"
            )
        await engine.dispose()
        return found

    return asyncio.run(run())
