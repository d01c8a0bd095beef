"""Exact instruction counts by valgrind's callgrind, of two lengths of the same loop in one process.

callgrind is told to write down its count whenever libc's ``getppid`` is called, which the measured process
does before and after each length: the count between two calls is that of the loop, and
``(count(3n) - count(n)) / 2n`` that of one turn, without what the loop costs as a whole.
"""

import asyncio
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path

Loop = Callable[[int], Awaitable[None]]

# The same hashes in every run, and modules that were compiled before.
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": ""}
_ROOT = Path(__file__).parents[1]


def is_available() -> bool:
    """Whether valgrind is there."""
    return shutil.which("valgrind") is not None and shutil.which("callgrind_control") is not None


def count(loops: str, lengths: Mapping[str, int]) -> Iterator[tuple[str, float]]:
    """Yield the name and the instructions per turn of each of ``lengths``, in one process under valgrind.

    ``loops``: ``"module:name"`` of the dictionary that has the loops. ``lengths``: the ``n`` of each.
    """
    environment = {**os.environ, **_ENVIRONMENT}
    task = [sys.executable, "-m", "benchmarks.counting", loops, json.dumps(dict(lengths))]
    subprocess.run(
        [*task, "compile"], cwd=_ROOT, env=environment, check=True
    )  # so that what is measured finds every module compiled
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "out")
        command = ["valgrind", "--tool=callgrind", "--dump-before=getppid", f"--callgrind-out-file={out}"]
        log = Path(folder, "log")
        with log.open("w") as errors:
            process = subprocess.Popen(
                [*command, "--instr-atstart=no", *task],
                cwd=_ROOT,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            assert process.stdout is not None
            with process:
                try:
                    for number, name in enumerate(process.stdout):
                        # The counts before the three calls: of what came between, of n turns, and of 3n.
                        once, thrice = (_instructions(out, 3 * number + part) for part in (2, 3))
                        yield name.strip(), (thrice - once) / (2 * lengths[name.strip()])
                except BaseException:
                    process.kill()
                    raise
        if process.returncode:
            raise RuntimeError(f"{' '.join(task)} failed under valgrind:\n{log.read_text()}")


def count_program(code: str) -> int:
    """The instructions of a whole interpreter that runs ``code``."""
    environment = {**os.environ, **_ENVIRONMENT}
    subprocess.run([sys.executable, "-c", code], cwd=_ROOT, env=environment, check=True)
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=_ROOT, env=environment, check=True, capture_output=True, text=True)
    match = re.search(r"Collected : (\d+)", done.stderr)
    assert match is not None, done.stderr
    return int(match[1])


def _instructions(out: Path, number: int) -> int:
    match = re.search(r"^summary: (\d+)$", Path(f"{out}.{number}").read_text(), re.MULTILINE)
    assert match is not None
    return int(match[1])


# -- the measured process


async def _measure(loops: Mapping[str, Loop], lengths: Mapping[str, int]) -> None:
    # The collector would run in one length and not in the other.
    gc.collect()
    gc.freeze()
    gc.disable()
    for name, n in lengths.items():
        loop = loops[name]
        # The interpreter adapts its code to what it has seen; caches and pool are filled.
        await loop(min(n, 200))
        os.getppid()
        await loop(n)
        os.getppid()
        await loop(3 * n)
        os.getppid()
        gc.collect()
        print(name, flush=True)


async def _run(names: Iterable[str], loops: Mapping[str, Loop]) -> None:
    for name in names:
        await loops[name](1)


def main(where: str, lengths: str, task: str = "measure") -> None:
    """Run in the measured process."""
    module, _, attribute = where.partition(":")
    loops: Mapping[str, Loop] = getattr(import_module(module), attribute)
    if task == "compile":
        asyncio.run(_run(json.loads(lengths), loops))
    else:
        start = ["callgrind_control", "--instr=on", str(os.getpid())]
        subprocess.run(start, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        asyncio.run(_measure(loops, json.loads(lengths)))


if __name__ == "__main__":
    main(*sys.argv[1:])
