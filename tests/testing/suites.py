"""Test suites of users, run by pytest in a process of its own, on either async plugin."""

import os
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

import asyncpg  # noqa: F401  # pytester forgets what a test imports; twice, this one crashes
import pytest

INSTALLED = entry_points(group="pytest11", name="scoped_async")
PLUGIN = ("-p", "scoped_async.pytest_plugin")
# pytest takes four times as long to start when it loads all the plugins that it finds.
ALONE = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
SEVERAL_WORKERS = ("-p", "xdist", "-n", "2", "-p", "randomly")

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

ROLLED_BACK = """
from sqlalchemy import select
from conftest import Note, Session
from scoped_async import scope

async def write_one():
    async with scope():
        assert await Session.scalar(select(Note.id)) is None
    async with scope(commit=True):
        Session.add(Note(id=1))
    async with scope():
        assert await Session.scalar(select(Note.id)) == 1

@mark
async def test_first(scoped_isolation):
    await write_one()

@mark
async def test_second(scoped_isolation):
    await write_one()
    [connection] = scoped_isolation
    assert await connection.scalar(select(Note.id)) == 1
"""

CLEAN = """
from conftest import Note, Session, engine
from scoped_async import create_task_group, scope
from sqlalchemy import select

kept = []

async def read():
    await Session.scalars(select(Note))

@module_fixture
async def wide():
    async with scope(name="wide"):
        await read()
        yield

@mark
async def test_uses_the_fixture(wide):
    async with scope():
        await read()

@mark
async def test_uses_it_too(wide):
    async with scope():
        await read()
    async with engine.connect() as connection:
        await connection.execute(select(Note))

@mark
async def test_waits_for_its_tasks():
    async with create_task_group() as group:
        for _ in range(3):
            group.create_task(read())

@mark
async def test_opens_many():
    for _ in range(3000):
        async with scope():
            pass

async def program():
    async def forever():
        async with scope():
            await asyncio.Event().wait()
    asyncio.create_task(forever())
    await asyncio.sleep(0)

def test_a_program_that_ends_as_it_does():
    asyncio.run(program())

@pytest.mark.scope_leaks("off")
@mark
async def test_leaks_on_purpose():
    kept.append(scope(name="left open"))
    await kept[-1].__aenter__()
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
        ("-p", "pytest_asyncio.plugin", *_ini(mode="strict", default_fixture_loop_scope="function")),
        "@pytest.mark.asyncio",
        "@pytest_asyncio.fixture(scope='module', loop_scope='module')",
    ),
    # One for all of them.
    "asyncio-auto": Runner(
        (
            *("-p", "asyncio"),
            *_ini(mode="auto", default_fixture_loop_scope="module", default_test_loop_scope="module"),
        ),
        "",
        "@pytest.fixture(scope='module')",
    ),
    "anyio": Runner(("-p", "anyio"), "@pytest.mark.anyio", "@pytest.fixture(scope='module')"),
}


def run_suite(
    pytester: pytest.Pytester,
    runner: Runner,
    tests: str,
    *options: str,
    conftest: str = CONFTEST,
    **more_tests: str,
) -> pytest.RunResult:
    """Run ``tests``, in which ``@mark`` and ``@module_fixture`` stand for what the runner needs."""
    imports = "import asyncio, pytest" + (", pytest_asyncio" if "pytest_asyncio" in runner.fixture else "")
    pytester.makeconftest(conftest)
    for name, text in {"test_suite": tests, **more_tests}.items():
        text = text.replace("@module_fixture", runner.fixture).replace("@mark", runner.mark)
        pytester.makepyfile(**{name: f"{imports}\n{text}"})
    return pytester.runpytest_subprocess(
        *PLUGIN, *runner.options, "-p", "no:cacheprovider", "--tb=short", *options, timeout=300
    )


def here(monkeypatch: pytest.MonkeyPatch, url: object) -> None:
    """Let the suite find this folder, and the database."""
    monkeypatch.setenv("NOTES_URL", str(url))
    for name, value in ALONE.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
