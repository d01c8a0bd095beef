"""What importing scoped_async costs over importing SQLAlchemy's asyncio and anyio alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from . import counting
from .timing import Track, in_turn, summary

_ROOT = Path(__file__).parents[1]

STATEMENTS = {
    "sqlalchemy.ext.asyncio and anyio": "import sqlalchemy.ext.asyncio, anyio",
    "scoped_async": "import scoped_async",
    # Its names are imported when they are used, so all of them are asked for.
    "every name of scoped_async": "from scoped_async import *",
}

_TIMED = """
from time import perf_counter
start = perf_counter()
exec({!r})
print(perf_counter() - start)
"""


def measure(*, rounds: int, instructions: bool, track: Track) -> dict[str, Any]:
    """Time each statement in a fresh interpreter; with ``instructions`` count it too, from its start."""
    times: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for number in track(range(rounds), description="Imports"):
        for name in in_turn(list(STATEMENTS), number):
            command = [sys.executable, "-c", _TIMED.format(STATEMENTS[name])]
            done = subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True)
            times[name].append(float(done.stdout))
    baseline = times["sqlalchemy.ext.asyncio and anyio"]
    found: dict[str, Any] = {name: summary(times[name], baseline) for name in STATEMENTS}
    if instructions:
        for name, statement in track(STATEMENTS.items(), description="Imports, counted"):
            found[name]["instructions"] = counting.count_program(statement)
    return found
