"""Test suites of users, run by pytest in a process of its own, on either async plugin."""

import os
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import asyncpg  # noqa: F401  # pytester forgets what a test imports; twice, this one crashes
import pytest

INSTALLED = entry_points(group="pytest11", name="scoped_async")
PLUGIN = () if INSTALLED else ("-p", "scoped_async.pytest_plugin")

CONFTEST = """
import os
import pytest
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.pool import NullPool
from notes import Note
from scoped_async import AsyncScopedSession

engine = create_async_engine(os.environ["NOTES_URL"], poolclass=NullPool)
Session = AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False))

@pytest.fixture
def scoped_async_sessions():
    return [(Session, engine)]

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"
"""


@dataclass(frozen=True)
class Runner:
    """How a user runs async tests: what is given to pytest, and what marks the tests and the fixtures."""

    options: tuple[str, ...]
    mark: str
    fixture: str


def _ini(**settings: str) -> tuple[str, ...]:
    return tuple(part for name, value in settings.items() for part in ("-o", f"asyncio_{name}={value}"))


RUNNERS = {
    # An event loop for each test, though the fixture has another.
    "asyncio-strict": Runner(
        _ini(mode="strict", default_fixture_loop_scope="function"),
        "@pytest.mark.asyncio",
        "@pytest_asyncio.fixture(scope='module', loop_scope='module')",
    ),
    # One for all of them.
    "asyncio-auto": Runner(
        _ini(mode="auto", default_fixture_loop_scope="module", default_test_loop_scope="module"),
        "",
        "@pytest.fixture(scope='module')",
    ),
    "anyio": Runner(("-p", "no:asyncio"), "@pytest.mark.anyio", "@pytest.fixture(scope='module')"),
}


def run_suite(
    pytester: pytest.Pytester, runner: Runner, tests: str, *options: str, conftest: str = CONFTEST
) -> pytest.RunResult:
    """Run ``tests``, in which ``@mark`` and ``@module_fixture`` stand for what the runner needs."""
    imports = "import asyncio, pytest" + (", pytest_asyncio" if "pytest_asyncio" in runner.fixture else "")
    tests = tests.replace("@module_fixture", runner.fixture).replace("@mark", runner.mark)
    pytester.makeconftest(conftest)
    pytester.makepyfile(test_suite=f"{imports}\n{tests}")
    return pytester.runpytest_subprocess(
        *PLUGIN, *runner.options, "-p", "no:cacheprovider", "--tb=short", *options, timeout=300
    )


def here(monkeypatch: pytest.MonkeyPatch, url: object) -> None:
    """Let the suite find this folder, and the database."""
    monkeypatch.setenv("NOTES_URL", str(url))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
