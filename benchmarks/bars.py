"""What is promised: ratios within one run that may not be exceeded."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Results = Mapping[str, Any]


class Bar(NamedTuple):
    """One promise; ``measure`` finds the two numbers, or raises `KeyError` when the run left them out."""

    title: str
    limit: float | None
    """The most that the first number may be of the second; ``None``: shown beside the bar before."""
    unit: str
    measure: Callable[[Results], tuple[float, float]]


class Standing(NamedTuple):
    """How a bar stands in one run."""

    bar: Bar
    value: float
    baseline: float

    @property
    def ratio(self) -> float:
        """The first number over the second."""
        return self.value / self.baseline

    @property
    def is_met(self) -> bool:
        """Whether the limit is kept."""
        return self.bar.limit is None or self.ratio <= self.bar.limit


def standings(results: Results) -> list[Standing]:
    """Those that this run has measured."""
    found: list[Standing] = []
    for bar in BARS:
        try:
            found.append(Standing(bar, *bar.measure(results)))
        except KeyError:
            continue
    return found


def _counted(name: str, baseline: str) -> Callable[[Results], tuple[float, float]]:
    return lambda results: (results["instructions"][name], results["instructions"][baseline])


def _added(kind: str) -> Callable[[Results], tuple[float, float]]:
    def measure(results: Results) -> tuple[float, float]:
        counted = results["instructions"]
        direct = counted[f"{kind}: direct"]
        return counted[f"{kind}: scope"] - direct, counted[f"{kind}: async_scoped_session"] - direct

    return measure


def _added_to_request(results: Results) -> tuple[float, float]:
    counted = results["instructions"]
    bare = counted["request, unused: by hand"]
    ours, theirs = (
        counted[f"request, touched: {title}"] - bare for title in ("middleware", "context-async-sqlalchemy")
    )
    return ours, theirs


def _timed(name: str) -> Callable[[Results], tuple[float, float]]:
    def measure(results: Results) -> tuple[float, float]:
        scope, alone = reversed(results["times"][f"{name}, bar"].values())
        return scope["ratio"] * alone["median"], alone["median"]

    return measure


def _added_time(results: Results) -> tuple[float, float]:
    return results["times"]["request, unused, bar"]["request, unused: middleware"]["added"], 3


def _at_once(results: Results) -> tuple[float, float]:
    counted = results["instructions"]
    many, few = (
        counted[f"at once: scope, {count}"] - counted[f"at once: nothing, {count}"]
        for count in ("20,000", "1,000")
    )
    return many, few


def _growth(child: str, results: Results) -> float:
    times = {row["count"]: row["best"] for row in results["tasks"] if _is(row, child, "asyncio.TaskGroup")}
    growth: float = times[100_000] / times[1_000]
    return growth


def _is(row: Mapping[str, Any], child: str, group: str) -> bool:
    return bool(row["child"] == child and row["group"] == group)


def _memory(name: str, most: float) -> Callable[[Results], tuple[float, float]]:
    return lambda results: (results["memory"][name], most)


def _import(statement: str) -> Callable[[Results], tuple[float, float]]:
    def measure(results: Results) -> tuple[float, float]:
        ours, alone = (results["imports"][name] for name in (statement, "sqlalchemy.ext.asyncio and anyio"))
        return ours["instructions"], alone["instructions"]

    return measure


def _timed_import(results: Results) -> tuple[float, float]:
    ours, alone = (
        results["imports"][name]
        for name in ("every name of scoped_async", "sqlalchemy.ext.asyncio and anyio")
    )
    return ours["ratio"] * alone["median"], alone["median"]


def _requests(what: str) -> Callable[[Results], tuple[float, float]]:
    # More is better here, so ours is the second number: above 1 is worse, as in every other row.
    def measure(results: Results) -> tuple[float, float]:
        by_hand, ours = (results["requests"][title] for title in ("hand-written ContextVar", "scoped_async"))
        ratio = "ratio" if what == "per second" else "ratio of CPU"
        return by_hand[what], ours[ratio] * by_hand[what]

    return measure


BARS = [
    Bar(
        "unused scope / hand-written class around ContextVar set and reset",
        1.40,
        "instructions",
        _counted("unused: scope", "unused: hand-written class"),
    ),
    Bar(
        "the hand-written class / bare set, get and reset",
        None,
        "instructions",
        _counted("unused: hand-written class", "bare ContextVar set, get, reset"),
    ),
    Bar(
        "scope, session touched, no SQL / `async with sessionmaker() as s`",
        0.35,
        "instructions",
        _counted("touched: scope", "touched: sessionmaker"),
    ),
    Bar(
        "scope, session touched, no SQL / `async_scoped_session` and `remove()`",
        0.55,
        "instructions",
        _counted("touched: scope", "touched: async_scoped_session"),
    ),
    Bar(
        "scope and one SELECT on PostgreSQL / `async with sessionmaker() as s` and the same",
        1.00,
        "instructions",
        _counted("select: scope", "select: sessionmaker"),
    ),
    Bar("scope and one SELECT, wall time", 1.03, "µs", _timed("select")),
    Bar(
        "`scope(commit=True)` and an insert / `async with sessionmaker.begin() as s` and the same",
        0.95,
        "instructions",
        _counted("insert: scope(commit=True)", "insert: sessionmaker.begin()"),
    ),
    Bar("`scope(commit=True)` and an insert, wall time", 1.03, "µs", _timed("insert")),
    Bar(
        "what a proxied awaited call adds / what `async_scoped_session` adds",
        0.50,
        "instructions",
        _added("call"),
    ),
    Bar("what a proxied sync method adds, likewise", 0.60, "instructions", _added("method")),
    Bar("what a proxied attribute adds, likewise", 1.00, "instructions", _added("attribute")),
    Bar(
        "child in `create_task_group`, scope unused / child in a plain anyio task group",
        1.35,
        "instructions",
        _counted("child: create_task_group", "child: anyio task group"),
    ),
    Bar("scope with 20,000 open at once / with 1,000", 1.05, "instructions", _at_once),
    Bar(
        "time per task with a scope, 100,000 / 1,000 at once, over the same of an empty `async with`",
        None,
        "times",
        lambda results: (_growth("unused scope", results), _growth("empty async with", results)),
    ),
    Bar("open, unused scope / 700 bytes", 1.00, "bytes", _memory("open: unused scope", 700)),
    # A hash table that grew once shows as a fraction of a byte; a leak of the smallest object as 16 bytes.
    Bar(
        "retained per scope, after all are closed / 0.01 bytes",
        1.00,
        "bytes",
        _memory("retained: unused scope", 0.01),
    ),
    Bar(
        "request with one SELECT, middleware and proxy / session written by hand in the handler",
        1.02,
        "instructions",
        _counted("request, select: middleware", "request, select: by hand"),
    ),
    Bar("what the middleware adds to a request, unused, wall time / 3 µs", 1.00, "µs", _added_time),
    Bar(
        "what the middleware adds, session touched, no SQL / what context-async-sqlalchemy's adds",
        0.70,
        "instructions",
        _added_to_request,
    ),
    Bar(
        "requests per second through uvicorn, one SELECT: session written by hand / middleware and proxy",
        None,
        "requests/s",
        _requests("per second"),
    ),
    Bar(
        "requests per second of server CPU: session written by hand / middleware and proxy",
        None,
        "requests/s",
        _requests("per second of CPU"),
    ),
    Bar(
        "`import scoped_async` / importing `sqlalchemy.ext.asyncio` and `anyio`",
        1.05,
        "instructions",
        _import("scoped_async"),
    ),
    Bar(
        "every name of it / importing `sqlalchemy.ext.asyncio` and `anyio`",
        1.05,
        "instructions",
        _import("every name of scoped_async"),
    ),
    Bar("every name of it, wall time", None, "µs", _timed_import),
]
