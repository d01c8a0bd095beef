"""Run the benchmarks: ``python -m benchmarks``; with ``--quick`` less of everything, in under a minute.

The numbers are those of the Python that runs this; the full runs of several Pythons stand side by side in the
README, which ``--readme`` writes anew.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from runpy import run_path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from . import ADDRESS, bars, charts, counting, imports, report

RESULTS = Path(__file__).with_name("results")
GROWTH = 1.02
"""How much a ratio may grow since the last full run: what ran before in the process moves it by less."""


class Size(NamedTuple):
    """How much is measured."""

    core_turns: int
    database_turns: int
    peers_turns: int
    rounds: int
    seconds: float
    largest: int
    scopes: int
    requests: int


QUICK = Size(20, 10, 0, 5, 0.002, 100, 20_000, 200)
FULL = Size(200, 40, 20, 30, 0.02, 100_000, 1_000_000, 1_000)


def main() -> int:
    """Returns 1 with ``--check`` when something has grown, or no bar was measured."""
    options = _options()
    console = Console()
    if options.readme:
        report.write_readme(report.load(RESULTS))
        return 0
    try:
        with _database(options.url) as url:
            os.environ[ADDRESS] = url
            _prepare(given=options.url is not None)
            results = _measure(QUICK if options.quick else FULL, options, console)
    except KeyboardInterrupt:
        console.print("Interrupted: nothing is written.")
        return 130
    report.show(results, console)
    path = report.save(results, options.output)
    drawn = charts.draw(results, options.output, report.kind(results))
    console.print("Written:", ", ".join(str(file) for file in (path, *drawn)))
    return _check(results, console) if options.check else 0


def _check(results: dict[str, Any], console: Console) -> int:
    """Hold the run against the bars and, where one is not met, against the full run of the same Python."""
    same = [run for run in report.load(RESULTS) if report.minor(run) == report.minor(results)]
    before = {standing.bar.title: standing.ratio for run in same for standing in bars.standings(run)}
    found = [standing for standing in bars.standings(results) if standing.bar.limit is not None]
    grown = 0
    for standing in found:
        most = max(standing.bar.limit or 0.0, GROWTH * before.get(standing.bar.title, 0.0))
        if standing.ratio > most:
            grown += 1
            console.print(f"Too much: {standing.bar.title}: {standing.ratio:.3f}, at most {most:.3f}")
    if not found:
        console.print("No bar was measured, so there is nothing to check.")
    return 1 if grown or not found else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything, in under a minute")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="these sections")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a bar is not met")
    parser.add_argument("--url", help="a PostgreSQL database to use: postgresql+asyncpg://...")
    parser.add_argument("--output", type=Path, default=RESULTS, help="the folder for JSON and charts")
    parser.add_argument("--readme", action="store_true", help="only write the full runs into the README")
    options = parser.parse_args()
    if not options.readme:
        try:  # before what takes long
            options.output.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=options.output).close()
        except OSError as error:
            parser.error(f"argument --output: {options.output} cannot be written to: {error}")
    return options


@contextmanager
def _database(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    launcher = run_path(str(Path(__file__).parents[1] / "tests" / "postgres.py"))
    with launcher["postgres_server"]() as server:
        yield server.url


def _prepare(*, given: bool) -> None:
    """Make the table; a URL that was given and cannot be used is said in one line."""

    async def prepare() -> None:
        from . import database

        await database.create_table()
        await database.engine.dispose()

    try:
        asyncio.run(prepare())
    except Exception as error:
        if not given:
            raise
        raise SystemExit(f"--url cannot be used: {type(error).__name__}: {error}") from None


def _measure(size: Size, options: argparse.Namespace, console: Console) -> dict[str, Any]:
    results: dict[str, Any] = {
        "environment": report.environment(
            quick=options.quick,
            complete=set(options.only) == set(SECTIONS),
            counted=counting.is_available(),
        )
    }
    columns = TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        overall = progress.add_task("[bold]Benchmarks", total=len(options.only))
        for name in options.only:
            found = SECTIONS[name](size, progress.track)
            if found:
                results[name] = found
            else:
                console.print(f"{name}: left out, {_why_left_out()}.")
            progress.advance(overall)
    return results


def _why_left_out() -> str:
    return "by --quick" if counting.is_available() else "since valgrind is not installed"


# -- the sections


def _instructions(size: Size, track: Any) -> dict[str, float]:
    from .core import AT_ONCE, CORE, DATABASE

    if not counting.is_available():
        return {}
    found: dict[str, float] = {}
    core = dict.fromkeys(CORE, size.core_turns) | dict.fromkeys(DATABASE, size.database_turns)
    counted = counting.count("benchmarks.core:ALL", core)
    found |= track(counted, total=len(core), description="Instructions")
    for count in (1_000, 20_000) if size is FULL else ():
        lengths = dict.fromkeys(AT_ONCE, count // 2)  # between n and 3n as many are open on average
        counted = counting.count("benchmarks.core:AT_ONCE", lengths)
        title = f"Instructions, {count:,} at once"
        found |= {f"{name}, {count:,}": number for name, number in track(counted, total=3, description=title)}
    return found


def _peers(size: Size, track: Any) -> dict[str, float]:
    if not counting.is_available() or not size.peers_turns:
        return {}
    from .requesting import FUNCTIONS

    lengths = dict.fromkeys(FUNCTIONS, size.peers_turns)
    counted = counting.count("benchmarks.requesting:FUNCTIONS", lengths)
    return dict(track(counted, total=len(lengths), description="Instructions, by library"))


def _times(size: Size, track: Any) -> dict[str, Any]:
    from . import timing

    return timing.scopes(rounds=size.rounds, seconds=size.seconds, track=track)


def _tasks(size: Size, track: Any) -> list[dict[str, Any]]:
    from . import tasks

    largest = size.largest
    return tasks.at_once(
        largest=largest,
        largest_on_database=min(largest, 1_000),
        largest_for_memory=10_000,
        rounds=5,
        track=track,
    )


def _fan_out(size: Size, track: Any) -> dict[str, float]:
    from . import tasks

    return tasks.fan_out((1_000, 10_000) if size is FULL else (100, 1_000), track)


def _requests(size: Size, track: Any) -> dict[str, Any]:
    from . import serving

    return serving.measure(
        rounds=5 if size is FULL else 2,
        requests=size.requests,
        connections=8,
        everybody=size is FULL,
        track=track,
    )


def _memory(size: Size, track: Any) -> dict[str, float]:
    from . import memory

    found: dict[str, float] = {}
    for scopes in track([size.scopes], description="Memory"):
        found = memory.measure(scopes=scopes, sessions=scopes // 20)
    return found


def _imports(size: Size, track: Any) -> dict[str, Any]:
    counted = counting.is_available() and size is FULL
    return imports.measure(rounds=15 if size is FULL else 3, instructions=counted, track=track)


SECTIONS: dict[str, Callable[[Size, Any], Any]] = {
    "instructions": _instructions,
    "peers": _peers,
    "times": _times,
    "requests": _requests,
    "tasks": _tasks,
    "fan-out": _fan_out,
    "memory": _memory,
    "imports": _imports,
}

if __name__ == "__main__":
    sys.exit(main())
