"""The leak check: a test that leaves a scope, a session or a connection behind fails, and says which."""

from fnmatch import fnmatchcase

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from suites import RUNNERS, Runner, here, run_suite

pytest_plugins = ["pytester"]

LEAKY = """
from conftest import Note, Session, engine
from scoped_async import ScopedResource, scope
from sqlalchemy.ext.asyncio import async_sessionmaker

kept = []

@mark
async def test_open_scope():
    await scope(name="left open").__aenter__()

@mark
async def test_open_scope_with_a_connection():
    kept.append(scope(name="with a connection"))
    await kept[-1].__aenter__()
    await Session.get(Note, 1)

async def work(event):
    async with scope(name="of a task"):
        event.set()
        await asyncio.Event().wait()

@mark
async def test_task():
    event = asyncio.Event()
    kept.append(asyncio.create_task(work(event)))
    await event.wait()

closing = asyncio.Event()
slow = ScopedResource(object, close=lambda _: (closing.set(), asyncio.Event().wait())[1])

async def leave():
    async with scope(name="slow to leave", close_timeout=None):
        slow()

@mark
async def test_clean_up():
    kept.append(asyncio.create_task(leave()))
    await closing.wait()

@mark
async def test_session():
    kept.append(async_sessionmaker(engine)())
    kept[-1].add(Note(id=1))

@mark
async def test_connection():
    kept.append(await engine.connect())
"""

FOUND = {
    "test_open_scope": "  - the scope left open, opened at test_suite.py:*",
    "test_open_scope_with_a_connection": "  - the scope with a connection, opened at test_suite.py:*",
    "test_task": "  - the scope of a task, opened at test_suite.py:*",
    "test_clean_up": "  - the scope slow to leave, opened at test_suite.py:*: it is being left, and its "
    "clean-up task is pending",
    "test_session": "  - a session in a transaction, taken at test_suite.py:*",
    "test_connection": "  - a connection out of its pool, taken at test_suite.py:*",
}

WIDE = """
from scoped_async import scope

@module_fixture
async def wide():
    await scope(name="wide").__aenter__()
    yield

@mark
async def test_first(wide): pass

@mark
async def test_last(wide): pass
"""


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, postgres_notes: AsyncEngine) -> None:
    here(monkeypatch, postgres_notes.url.render_as_string(hide_password=False))


class TestWhatIsFound:
    """Each leak fails the test that left it, whatever ran before or after it."""

    def test_in_every_test_of_a_leaky_suite(self, pytester: pytest.Pytester, runner: Runner) -> None:
        """Of what a wide fixture leaves, the last test that uses it. Nothing else of the run is touched."""
        result = run_suite(pytester, runner, LEAKY, "--scope-leaks=error", test_wide=WIDE)
        result.assert_outcomes(passed=len(FOUND) + 2, errors=len(FOUND) + 1)
        lines = result.outlines
        for test, leak in FOUND.items():
            start = lines.index(f"test_suite.py::{test} left behind:")
            assert fnmatchcase(lines[start + 1], leak)
            assert lines[start + 2].startswith("Leave every scope by `async with`")
        result.stdout.fnmatch_lines(
            ["test_wide.py::test_last left behind:", "  - the scope wide, opened at test_wide.py:*"]
        )
        assert "stays current" not in str(result.stdout)

    def test_what_stays_current_in_the_tests_that_follow(self, pytester: pytest.Pytester) -> None:
        """anyio's plugin has one task, with one Context, as long as an async fixture is there."""
        tests = """
from scoped_async import current_scope, scope

@module_fixture
async def wide():
    yield

@mark
async def test_leak(wide):
    await scope(name="left open").__aenter__()

@mark
async def test_afterwards(wide):
    assert current_scope().name == "left open"
"""
        result = run_suite(pytester, RUNNERS["anyio"], tests, "--scope-leaks=error")
        result.assert_outcomes(passed=2, errors=1)
        result.stdout.fnmatch_lines(
            ["  - the scope left open, opened at *; it stays current in the tests that follow, as anyio's *"]
        )
