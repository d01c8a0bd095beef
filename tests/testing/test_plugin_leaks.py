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


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, postgres_notes: AsyncEngine) -> None:
    here(monkeypatch, postgres_notes.url.render_as_string(hide_password=False))


class TestWhatIsFound:
    """Each leak fails the test that left it, whatever ran before or after it."""

    def test_in_every_test_of_a_leaky_suite(self, pytester: pytest.Pytester, runner: Runner) -> None:
        result = run_suite(pytester, runner, LEAKY, "--scope-leaks=error")
        result.assert_outcomes(passed=len(FOUND), errors=len(FOUND))
        lines = result.outlines
        for test, leak in FOUND.items():
            start = lines.index(f"test_suite.py::{test} left behind:")
            assert fnmatchcase(lines[start + 1], leak)
            assert lines[start + 2].startswith("Leave every scope by `async with`")

    def test_nothing_in_a_clean_suite(self, pytester: pytest.Pytester, runner: Runner) -> None:
        result = run_suite(pytester, runner, CLEAN, "--scope-leaks=error", "-W", "error")
        result.assert_outcomes(passed=6)

    def test_nothing_in_random_order_and_on_several_workers(self, pytester: pytest.Pytester) -> None:
        options = ("--scope-leaks=error", "-W", "error", "-p", "randomly", "-n", "2")
        run_suite(pytester, RUNNERS["asyncio-auto"], CLEAN, *options).assert_outcomes(passed=6)

    def test_a_wide_fixture_that_leaks_is_due_when_it_ends(
        self, pytester: pytest.Pytester, runner: Runner
    ) -> None:
        tests = """
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
        result = run_suite(pytester, runner, tests, "--scope-leaks=error", "-p", "no:randomly")
        result.assert_outcomes(passed=2, errors=1)
        result.stdout.fnmatch_lines(
            ["test_suite.py::test_last left behind:", "  - the scope wide, opened at *"]
        )


class TestModes:
    """error, warn or off; the option before the ini file; one test by its marker."""

    TESTS = """
from scoped_async import scope

@mark
async def test_leak():
    await scope(name="left open").__aenter__()
"""

    def test_off_is_the_default(self, pytester: pytest.Pytester) -> None:
        run_suite(pytester, RUNNERS["anyio"], self.TESTS).assert_outcomes(passed=1)

    def test_warn(self, pytester: pytest.Pytester) -> None:
        result = run_suite(pytester, RUNNERS["anyio"], self.TESTS, "-o", "scope_leaks=warn")
        result.assert_outcomes(passed=1, warnings=1)
        result.stdout.fnmatch_lines(["*ScopeLeakWarning: test_suite.py::test_leak left behind:"])

    def test_the_option_comes_before_the_ini_file(self, pytester: pytest.Pytester) -> None:
        pytester.makeini("[pytest]\nscope_leaks = error")
        run_suite(pytester, RUNNERS["anyio"], self.TESTS).assert_outcomes(passed=1, errors=1)
        run_suite(pytester, RUNNERS["anyio"], self.TESTS, "--scope-leaks=off").assert_outcomes(passed=1)

    def test_another_is_a_usage_error(self, pytester: pytest.Pytester) -> None:
        result = run_suite(pytester, RUNNERS["anyio"], self.TESTS, "-o", "scope_leaks=maybe")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: scope_leaks is one of error, warn, off, not 'maybe'."])

    def test_verbose_shows_the_stack(self, pytester: pytest.Pytester) -> None:
        tests = """
from scoped_async import scope

async def helper():
    await scope(name="left open").__aenter__()

@mark
async def test_leak():
    await helper()
"""
        result = run_suite(pytester, RUNNERS["anyio"], tests, "--scope-leaks=error", "-vv")
        result.stdout.fnmatch_lines(
            [
                "  - the scope left open, opened at test_suite.py:*; the stack, the innermost line last:",
                "*, in test_leak",
                "*await helper()",
                "*, in helper",
                '*await scope(name="left open").__aenter__()',
            ]
        )

    def test_a_teardown_that_fails_keeps_its_own_error(self, pytester: pytest.Pytester) -> None:
        tests = """
from scoped_async import scope

@pytest.fixture
def broken():
    yield
    raise LookupError("of the fixture")

@mark
async def test_leak(broken):
    await scope(name="left open").__aenter__()

def test_without_a_leak(broken):
    pass
"""
        # Without pytest's summary, which repeats the whole message where the variable CI is set.
        result = run_suite(pytester, RUNNERS["anyio"], tests, "--scope-leaks=error", "-rN")
        result.assert_outcomes(passed=2, errors=2)
        assert str(result.stdout).count("left behind") == 1
        result.stdout.fnmatch_lines(
            ["E   LookupError: of the fixture", "E   test_suite.py::test_leak left behind:"]
        )
