"""Run SQLAlchemy's own asyncio session tests through `AsyncScopedSession`.

    python tests/upstream/run.py [--url postgresql+asyncpg://...] [--no-postgres]

The tests come from the sdist of the SQLAlchemy that this interpreter imports.
They run twice on every database: through SQLAlchemy's `async_scoped_session`,
then through ours (see `adapter.py`). Ours may fail only where theirs fails
too. On sqlite always; on PostgreSQL by `--url`, else by `tests/postgres.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import sqlalchemy

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = HERE / ".sdist"
SUITE = ["test/ext/asyncio/test_scoping.py", "test/ext/asyncio/test_session.py"]
SQLITE = "sqlite+aiosqlite:///:memory:"
AT_LEAST = 50  # of 76 tests on 2.0 and 144 on 2.1: a run of fewer has tested nothing


@dataclass
class Outcome:
    passed: set[str]
    failed: dict[str, str]  # the test and the end of its traceback


def sdist(version: str) -> Path:
    """The unpacked sdist of this version, downloaded once."""
    folder = CACHE / f"sqlalchemy-{version}"
    if folder.exists():
        return folder
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as download:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--no-binary", "sqlalchemy", f"sqlalchemy=={version}"]
        environment = {**os.environ, "DISABLE_SQLALCHEMY_CEXT": "1"}
        subprocess.run(command, cwd=download, env=environment, check=True)
        (archive,) = Path(download).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            tar.extractall(download, filter="data")
        (unpacked,) = (path for path in Path(download).iterdir() if path.is_dir())
        unpacked.rename(folder)
    return folder


def run_suite(route: str, url: str, source: Path) -> Outcome:
    """One run in a process of its own; `-s` keeps it on the installed SQLAlchemy."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [sys.executable, "-s", "-m", "pytest", "-p", "adapter", f"--route={route}"]
        command += [f"--dburi={url}", f"--junitxml={report}", "-p", "no:cacheprovider", *SUITE]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)]),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            "PYTEST_ADDOPTS": "",
        }
        done = subprocess.run(
            command, cwd=source, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if done.returncode not in (0, 1):  # 1: some tests failed
            sys.exit(f"{done.stdout}\n{route} on {url}: pytest exited {done.returncode}")
        return read_report(report)


def read_report(report: Path) -> Outcome:
    outcome = Outcome(set(), {})
    for case in ElementTree.parse(report).iter("testcase"):
        test = f"{case.get('classname')}::{case.get('name')}"
        found = {child.tag: child.text or "" for child in case}
        failure = found.get("failure", found.get("error"))
        if failure is not None:
            outcome.failed[test] = "\n".join(failure.strip().splitlines()[-6:])
        elif "skipped" not in found:
            outcome.passed.add(test)
    outcome.passed -= outcome.failed.keys()  # passed, then failed in its teardown
    return outcome


def compare(url: str, source: Path) -> bool:
    """Print both outcomes; true when ours fails nowhere that theirs does not."""
    database = url.partition(":")[0]
    stock, ours = run_suite("stock", url, source), run_suite("ours", url, source)
    for route, outcome in (("stock", stock), ("ours", ours)):
        print(f"{database}: {route:5} {len(outcome.passed)} passed, {len(outcome.failed)} failed")
    extra = sorted(ours.failed.keys() - stock.failed.keys())
    for test in extra:
        print(f"\nfails with ours only: {test}\n{ours.failed[test]}")
    lost = sorted(stock.passed - ours.passed - ours.failed.keys())
    for test in lost:
        print(f"\npasses with stock, not run with ours: {test}")
    enough = min(len(stock.passed), len(ours.passed)) >= AT_LEAST
    if not enough:
        print(f"fewer than {AT_LEAST} tests passed: the suite did not run")
    return enough and not extra and not lost


@contextlib.contextmanager
def postgres(url: str | None) -> Iterator[str]:
    """The URL of a PostgreSQL to use: the one given, or that of our own launcher."""
    if url is not None:
        yield url
        return
    sys.path.insert(0, str(HERE.parent))
    from postgres import postgres_server

    with postgres_server() as server:
        yield server.url


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", help="a PostgreSQL database; the suite drops what is in it")
    parser.add_argument("--no-postgres", action="store_true", help="sqlite only")
    options = parser.parse_args()

    print(f"SQLAlchemy {sqlalchemy.__version__}")
    source = sdist(sqlalchemy.__version__)
    good = compare(SQLITE, source)
    if not options.no_postgres:
        with postgres(options.url) as url:
            good = compare(url, source) and good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
