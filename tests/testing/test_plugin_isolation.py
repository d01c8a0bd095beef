"""The fixture scoped_isolation, in suites of users that pytest-asyncio or anyio's plugin runs."""

import subprocess
import sys

import pytest
from notes import stored
from sqlalchemy.ext.asyncio import AsyncEngine
from suites import CLEAN, CONFTEST, ROLLED_BACK, RUNNERS, SEVERAL_WORKERS, Runner, here, run_suite

import scoped_async

pytest_plugins = ["pytester"]

NOTHING_ALLOWED = ("-W", "error", "--scope-leaks=error")


class TestScopedIsolation:
    """What a test commits is rolled back after it; the user says which sessions, in one fixture."""

    @pytest.mark.parametrize(
        ("runner", "notes"),
        [*((name, "postgresql") for name in RUNNERS), ("anyio", "sqlite")],
        indirect=True,
    )
    async def test_tests_do_not_see_each_other(
        self,
        pytester: pytest.Pytester,
        monkeypatch: pytest.MonkeyPatch,
        runner: Runner,
        notes: AsyncEngine,
    ) -> None:
        """Nor does the leak check find anything in what is left as it should be."""
        here(monkeypatch, notes.url.render_as_string(hide_password=False))
        result = run_suite(pytester, runner, ROLLED_BACK, *NOTHING_ALLOWED, test_clean=CLEAN)
        result.assert_outcomes(passed=2 + 6)
        assert await stored(notes) == 0

    async def test_in_random_order_and_on_several_workers(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, postgres_notes: AsyncEngine
    ) -> None:
        """The writes meet at the primary key, where PostgreSQL lets one wait for the other's rollback."""
        here(monkeypatch, postgres_notes.url.render_as_string(hide_password=False))
        options = (*NOTHING_ALLOWED, *SEVERAL_WORKERS)
        result = run_suite(pytester, RUNNERS["asyncio-auto"], ROLLED_BACK, *options, test_clean=CLEAN)
        result.assert_outcomes(passed=2 + 6)
        assert await stored(postgres_notes) == 0


class TestItSaysWhatIsMissing:
    """Each slip has a sentence of its own."""

    def test_the_sessions(self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
        here(monkeypatch, "sqlite+aiosqlite://")
        tests = "@mark\nasync def test(scoped_isolation): pass"
        wrong = """
import conftest

class Wrong:
    @pytest.fixture
    def scoped_async_sessions(self): return self.given
    @mark
    async def test(self, scoped_isolation): assert False, "not to be run"

class TestNothing(Wrong): given = []
class TestNone(Wrong): given = None
class TestSession(Wrong): given = conftest.Session
class TestPair(Wrong): given = (conftest.Session, conftest.engine)
class TestSwapped(Wrong): given = [(conftest.engine, conftest.Session)]
"""
        conftest = CONFTEST.replace("@pytest.fixture\ndef scoped_async_sessions", "def no_fixture")
        runner = RUNNERS["asyncio-auto"]
        result = run_suite(pytester, runner, tests, conftest=conftest, test_wrong=wrong)
        result.assert_outcomes(errors=6)
        result.stdout.fnmatch_lines(
            [
                "scoped_isolation needs to know your sessions. Override the fixture in your conftest.py:",
                "*def scoped_async_sessions(engine):",
                "*return [[](Session, engine)]",
            ]
        )
        said = "E   TypeError: The fixture scoped_async_sessions returns *`[[](Session, engine)]`, and not "
        given = ("[[]]", "None", "AsyncScoped", "(AsyncScoped", "[[](<")
        result.stdout.fnmatch_lines([f"{said}{each}*" for each in given])

    def test_the_event_loop_and_the_backend(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        here(monkeypatch, "sqlite+aiosqlite://")
        conftest = CONFTEST.replace('"asyncio"', '"trio"')
        sync, tests = "def test(scoped_isolation): pass", "@mark\nasync def test(scoped_isolation): pass"
        result = run_suite(pytester, RUNNERS["anyio"], tests, conftest=conftest, test_sync=sync)
        result.assert_outcomes(errors=2)
        result.stdout.fnmatch_lines_random(
            [
                "scoped_isolation is for async tests*clone_database.",
                "scoped_isolation works on asyncio, and this test runs on trio.*",
            ]
        )


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
