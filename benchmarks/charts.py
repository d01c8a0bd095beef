"""The charts: cost per scope by library, cost per task against the number of tasks, requests per second."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

Results = Mapping[str, Any]

OURS = "#3b5bdb"
OTHERS = "#adb5bd"
# Text stays text, and the same numbers give the same file. It must be read on white and on black.
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "scoped_async",
    "font.size": 10,
    "text.color": "#6c757d",
    "axes.labelcolor": "#6c757d",
    "axes.edgecolor": "#adb5bd",
    "axes.titlecolor": "#6c757d",
    "xtick.color": "#6c757d",
    "ytick.color": "#6c757d",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.w_pad": 0.15,
}


def draw(results: Results, folder: Path, kind: str) -> list[Path]:
    """Draw what ``results`` has the numbers for; ``kind`` ends the names."""
    charts: dict[str, tuple[str, Callable[[Results], Figure]]] = {
        "cost_per_scope": ("peers", _cost_per_scope),
        "cost_per_task": ("tasks", _cost_per_task),
        "requests": ("requests", _requests),
    }
    drawn: list[Path] = []
    with mpl.rc_context(_STYLE):
        for name, (needed, chart) in charts.items():
            if results.get(needed):
                drawn.append(folder / f"{name}{kind}.svg")
                chart(results).savefig(drawn[-1], transparent=True, metadata={"Date": None})
    return drawn


def _about(results: Results) -> str:
    about = results["environment"]
    return f"Python {about['python']}, SQLAlchemy {about['versions']['sqlalchemy']}, {about['date'][:10]}"


def _bars(axes: Axes, values: Mapping[str, float], label: str, number: str) -> None:
    names = list(values)[::-1]
    colours = [OURS if name == "scoped_async" else OTHERS for name in names]
    drawn = axes.barh(names, [values[name] for name in names], color=colours)
    axes.bar_label(drawn, [number.format(values[name]) for name in names], padding=4, fontsize=8)
    axes.set_title(label, fontsize=10, loc="left")
    axes.margins(x=0.18)
    axes.tick_params(axis="y", length=0)


def _cost_per_scope(results: Results) -> Figure:
    figure = Figure(figsize=(8, 6.4), layout="constrained")
    titles = {
        "unused": "session not touched",
        "touched": "session touched, no SQL",
        "select": "one SELECT on PostgreSQL",
        "insert": "one INSERT, committed",
    }
    all_axes = figure.subplots(2, 2, sharey=True)
    for axes, (function, title) in zip(all_axes.flat, titles.items(), strict=True):
        counted = {
            name.partition(": ")[2]: count / 1000
            for name, count in results["peers"].items()
            if name.startswith(f"{function}: ")
        }
        _bars(axes, counted, title, "{:,.0f}")
    figure.suptitle(f"Thousand instructions of the client process ({_about(results)})", fontsize=10)
    return figure


def _cost_per_task(results: Results) -> Figure:
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    lines = {
        ("nothing", "asyncio.TaskGroup"): (OTHERS, "-", "asyncio.TaskGroup, nothing"),
        ("unused scope", "asyncio.TaskGroup"): (OURS, "-", "asyncio.TaskGroup, unused scope"),
        ("nothing", "anyio task group"): (OTHERS, "--", "anyio task group, nothing"),
        ("unused scope", "create_task_group"): (OURS, "--", "create_task_group, unused scope"),
        ("touched scope", "create_task_group"): (OURS, ":", "create_task_group, session touched"),
    }
    for (child, group), (colour, dashes, label) in lines.items():
        rows = [row for row in results["tasks"] if (row["child"], row["group"]) == (child, group)]
        counts, times = [row["count"] for row in rows], [row["best"] for row in rows]
        axes.loglog(counts, times, dashes, color=colour, marker="o", markersize=4, label=label)
    axes.set_xlabel("tasks at once")
    axes.set_ylabel("microseconds per task, best round")
    axes.set_title(_about(results), fontsize=10, loc="left")
    for axis, steps in ((axes.xaxis, (1,)), (axes.yaxis, (1, 2, 5))):
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_major_formatter("{x:,g}")
        axis.set_minor_locator(NullLocator())
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return figure


def _requests(results: Results) -> Figure:
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    found = results["requests"]
    _bars(left, {title: row["per second"] for title, row in found.items()}, "requests per second", "{:,.0f}")
    of_cpu = {title: row["per second of CPU"] for title, row in found.items()}
    _bars(right, of_cpu, "per second of server CPU", "{:,.0f}")
    figure.suptitle(f"One SELECT per request through uvicorn ({_about(results)})", fontsize=10)
    return figure
