"""The fixture scoped_isolation, in suites of users that pytest-asyncio or anyio's plugin runs."""

import subprocess
import sys

import pytest
from notes import stored
from sqlalchemy.ext.asyncio import AsyncEngine
from suites import CONFTEST, RUNNERS, Runner, here, run_suite

import scoped_async

pytest_plugins = ["pytester"]

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


class TestScopedIsolation:
    """What a test commits is rolled back after it; the user says which sessions, in one fixture."""

    async def test_tests_do_not_see_each_other(
        self,
        pytester: pytest.Pytester,
        monkeypatch: pytest.MonkeyPatch,
        runner: Runner,
        notes: AsyncEngine,
    ) -> None:
        here(monkeypatch, notes.url.render_as_string(hide_password=False))
        result = run_suite(pytester, runner, ROLLED_BACK, "-W", "error", "--scope-leaks=error")
        result.assert_outcomes(passed=2)
        assert await stored(notes) == 0

    async def test_in_random_order_and_on_several_workers(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, postgres_notes: AsyncEngine
    ) -> None:
        """The writes meet at the primary key, where PostgreSQL lets one wait for the other's rollback."""
        here(monkeypatch, postgres_notes.url.render_as_string(hide_password=False))
        options = ("-W", "error", "--scope-leaks=error", "-p", "randomly", "-n", "2")
        result = run_suite(pytester, RUNNERS["asyncio-auto"], ROLLED_BACK, *options)
        result.assert_outcomes(passed=2)
        assert await stored(postgres_notes) == 0


class TestItSaysWhatIsMissing:
    """Each slip has a sentence of its own."""

    def test_the_sessions(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        here(monkeypatch, "sqlite+aiosqlite://")
        tests = "@mark\nasync def test(scoped_isolation): pass"
        result = run_suite(pytester, RUNNERS["asyncio-auto"], tests, conftest="")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(
            [
                "scoped_isolation needs to know your sessions. Override the fixture in your conftest.py:",
                "*def scoped_async_sessions(engine):",
                "*return [[](Session, engine)]",
            ]
        )

    def test_the_event_loop(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        here(monkeypatch, "sqlite+aiosqlite://")
        result = run_suite(pytester, RUNNERS["anyio"], "def test(scoped_isolation): pass")
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["scoped_isolation is for async tests*clone_database."])

    def test_the_backend(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        here(monkeypatch, "sqlite+aiosqlite://")
        conftest = CONFTEST.replace('"asyncio"', '"trio"')
        tests = "@mark\nasync def test(scoped_isolation): pass"
        result = run_suite(pytester, RUNNERS["anyio"], tests, conftest=conftest)
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["scoped_isolation works on asyncio, and this test runs on trio.*"])


class TestItCostsNothingWhenUnused:
    """pytest loads the plugin in every run, of whichever project."""

    def test_it_imports_no_sqlalchemy(self) -> None:
        code = "import sys, scoped_async.pytest_plugin; sys.exit('sqlalchemy' in sys.modules)"
        subprocess.run([sys.executable, "-c", code], check=True)

    def test_the_names_of_the_package_are_there_all_the_same(self) -> None:
        assert {*scoped_async.__all__, "__version__"} <= {*dir(scoped_async)}
        assert not hasattr(scoped_async, "no_such_name")

    def test_nor_does_a_run_without_the_leak_check(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here(monkeypatch, "")
        tests = "import sys\ndef test(): assert 'sqlalchemy' not in sys.modules"
        run_suite(pytester, RUNNERS["anyio"], tests, conftest="").assert_outcomes(passed=1)
