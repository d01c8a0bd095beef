"""What a run found: as a table on the terminal, as JSON, and in ``benchmarks/README.md``."""

import json
import os
import platform
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .bars import BARS, Standing, standings
from .peers import PEERS

_PACKAGES = ["sqlalchemy", "anyio", "asyncpg", "greenlet", "starlette", "uvicorn"]
_README = Path(__file__).with_name("README.md")
_BEGIN, _END = "<!-- written by python -m benchmarks -->", "<!-- until here -->"


def environment(*, quick: bool, complete: bool, counted: bool) -> dict[str, Any]:
    """Where and with what the numbers were measured."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "cpu": _cpu(),
        "cpus": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {package: _version(package) for package in _PACKAGES},
        "peers": {peer.name: peer.missing or peer.title for peer in PEERS},
        "quick": quick,
        "complete": complete,
        "valgrind": counted,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        match = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        match = None
    return match[1] if match else platform.processor() or "unknown"


def minor(results: Mapping[str, Any]) -> str:
    """The Python, as its files are named: ``"3.14"``."""
    return ".".join(results["environment"]["python"].split(".")[:2])


def kind(results: Mapping[str, Any]) -> str:
    """What the names of its files end in: a quick run, or one of some sections, never replaces a full one."""
    about = results["environment"]
    return "-quick" if about["quick"] else "" if about["complete"] else "-part"


def save(results: Mapping[str, Any], folder: Path) -> Path:
    """Write the JSON of one run; a run of the same kind on the same Python replaces it."""
    path = folder / f"python{minor(results)}{kind(results)}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def load(folder: Path) -> list[dict[str, Any]]:
    """The full runs that are there, by version of Python."""
    paths = [path for path in folder.glob("python*.json") if "-" not in path.name]
    return [json.loads(path.read_text()) for path in sorted(paths)]


# -- on the terminal


def show(results: Mapping[str, Any], console: Console) -> None:
    """Print the tables of one run."""
    about = results["environment"]
    console.print(
        f"Python {about['python']}, SQLAlchemy {about['versions']['sqlalchemy']}, {about['cpu']} x "
        f"{about['cpus']}, {about['date']}"
    )
    if not about["valgrind"]:
        console.print("valgrind is not installed, so no instructions are counted.")
    if found := standings(results):
        console.print(_bars_table(found))
    if "instructions" in results:
        console.print(_numbers_table("Instructions of each operation", results["instructions"]))
    if "times" in results or "peers" in results:
        console.print(_peers_table(results, _missing(about)))
    if "requests" in results:
        console.print(_requests_table(results["requests"]))
    if "tasks" in results:
        console.print(_tasks_table(results["tasks"]))
    if "memory" in results:
        console.print(_memory_table(results["memory"]))
    for count, seconds in results.get("fan-out", {}).items():
        console.print(f"{int(count):,} inserts by create_task_group(limit=5, commit=True): {seconds:.2f} s")


def _missing(about: Mapping[str, Any]) -> dict[str, str]:
    return {name: said for name, said in about["peers"].items() if said.startswith("cannot")}


def _bars_table(found: Iterable[Standing]) -> Table:
    table = Table(title="The bars: ratios within this run")
    for title in ("what", "at most", "measured", "", ""):
        table.add_column(title, justify="left" if title == "what" else "right")
    for standing in found:
        limit = "" if standing.bar.limit is None else f"{standing.bar.limit:.2f}"
        mark = "" if standing.bar.limit is None else "met" if standing.is_met else "[bold red]not met"
        table.add_row(
            standing.bar.title, limit, f"{standing.ratio:.3f}", mark, f"[dim]{_two_numbers(standing)}"
        )
    return table


def _two_numbers(standing: Standing) -> str:
    return f"{_short(standing.value)} / {_short(standing.baseline)} {standing.bar.unit}"


def _short(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _peers_table(results: Mapping[str, Any], missing: Mapping[str, str]) -> Table:
    table = Table(title="One unit of work: instructions, and microseconds (median, ratio to the first)")
    counted, timed = results.get("peers", {}), results.get("times", {})
    functions = ("unused", "touched", "select", "insert", *(["request"] if counted else []))
    for title in ("library", *functions):
        table.add_column(title, justify="left" if title == "library" else "right")
    titles = timed.get("unused") or [name.partition(": ")[2] for name in counted if name.startswith("unused")]
    for title in titles:
        cells: list[str] = []
        for function in functions:
            count, row = counted.get(f"{function}: {title}"), timed.get(function, {}).get(title)
            instructions = [] if count is None else [_short(count)]
            times = [] if row is None else [f"{row['median']:.3g} µs, {row['ratio']:.2f}"]
            cells.append("; ".join(instructions + times))
        table.add_row(title, *cells)
    for name, why in missing.items():
        table.add_row(f"{name}: {why}")
    return table


def _requests_table(found: Mapping[str, Any]) -> Table:
    table = Table(title="Requests with one SELECT through uvicorn")
    for title in ("library", "per second", "ratio", "per second of CPU", "ratio", "p50 ms", "p99 ms"):
        table.add_column(title, justify="left" if title == "library" else "right")
    for title, row in found.items():
        numbers = (row["per second"], row["ratio"], row["per second of CPU"], row["ratio of CPU"])
        a, b, c, d = numbers
        table.add_row(
            title, f"{a:,.0f}", f"{b:.2f}", f"{c:,.0f}", f"{d:.2f}", f"{row['p50']:.2f}", f"{row['p99']:.2f}"
        )
    return table


def _tasks_table(rows: Iterable[Mapping[str, Any]]) -> Table:
    rows = list(rows)
    counts = sorted({row["count"] for row in rows})
    table = Table(title="Tasks at once: microseconds per task (bytes per task)")
    table.add_column("each")
    table.add_column("in")
    for count in counts:
        table.add_column(f"{count:,}", justify="right")
    for child, group in dict.fromkeys((row["child"], row["group"]) for row in rows):
        cells = {
            row["count"]: f"{row['best']:.3g}" + (f" ({row['bytes']:,.0f})" if row["bytes"] else "")
            for row in rows
            if (row["child"], row["group"]) == (child, group)
        }
        table.add_row(child, group, *(cells.get(count, "") for count in counts))
    return table


def _memory_table(found: Mapping[str, float]) -> Table:
    scopes, sessions = found["scopes"], found["sessions"]
    title = f"Memory: bytes each, retained after {scopes:,} unused and {sessions:,} touched scopes"
    return _numbers_table(title, {name: size for name, size in found.items() if ": " in name})


def _numbers_table(title: str, found: Mapping[str, float]) -> Table:
    table = Table(title=title, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, number in found.items():
        table.add_row(name, _short(number))
    return table


# -- in the README


def write_readme(runs: list[dict[str, Any]]) -> None:
    """Put the bars as they stand in ``runs``, and what they were measured on, between the marks."""
    text = _README.read_text()
    begin, end = text.index(_BEGIN) + len(_BEGIN), text.index(_END)
    _README.write_text(f"{text[:begin]}\n{_markdown(runs)}{text[end:]}")


def _markdown(runs: list[dict[str, Any]]) -> str:
    names = [f"Python {results['environment']['python']}" for results in runs]
    by_bar = [{standing.bar: standing for standing in standings(results)} for results in runs]
    lines = [f"| what | at most | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
    for bar in (bar for bar in BARS if any(bar in found for found in by_bar)):
        cells = [_cell(found.get(bar)) for found in by_bar]
        limit = "" if bar.limit is None else f"{bar.limit:.2f}"
        lines.append(f"| {bar.title} | {limit} | {' | '.join(cells)} |")
    lines.append("")
    for results in runs:
        about = results["environment"]
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
        where = f"{about['cpu']} x {about['cpus']}"
        missing = "".join(f"; {name} {why}" for name, why in _missing(about).items())
        lines.append(f"- Python {about['python']}: {about['date']}, {where}, {versions}{missing}.")
    return "\n".join(lines) + "\n"


def _cell(standing: Standing | None) -> str:
    if standing is None:
        return ""
    ratio = f"{standing.ratio:.2f}" if standing.is_met else f"**{standing.ratio:.2f}**"
    return f"{ratio} ({_two_numbers(standing)})"
