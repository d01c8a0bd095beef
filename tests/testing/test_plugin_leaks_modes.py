"""The leak check is off, warns or fails, for all tests or for one; and how it says what it found."""

from functools import partial

import pytest
from suites import RUNNERS, here
from suites import run_suite as run_with_database

pytest_plugins = ["pytester"]

ANYIO = RUNNERS["anyio"]
CONFTEST = """
import pytest

@pytest.fixture(scope="session")
def anyio_backend():
    return "asyncio"
"""
run_suite = partial(run_with_database, conftest=CONFTEST)

TESTS = """
from scoped_async import scope

@mark
async def test_leak():
    await scope(name="left open").__aenter__()
"""


@pytest.fixture(autouse=True)
def no_database(monkeypatch: pytest.MonkeyPatch) -> None:
    here(monkeypatch, "")


class TestModes:
    """error, warn or off; the option before the ini file; one test by its marker."""

    def test_off_is_the_default(self, pytester: pytest.Pytester) -> None:
        run_suite(pytester, ANYIO, TESTS).assert_outcomes(passed=1)

    def test_one_test_may_have_another(self, pytester: pytest.Pytester) -> None:
        """By its marker, also where the check is off for all others."""
        tests = (
            TESTS.replace("test_leak", "test_off")
            + """
@pytest.mark.scope_leaks(mode="warn")
@mark
async def test_warn():
    await scope().__aenter__()

@pytest.mark.scope_leaks("error")
@mark
async def test_error():
    await scope().__aenter__()
"""
        )
        result = run_suite(pytester, ANYIO, tests)
        result.assert_outcomes(passed=3, errors=1, warnings=1)
        result.stdout.fnmatch_lines(["test_suite.py::test_error left behind:"])

    def test_warn(self, pytester: pytest.Pytester) -> None:
        result = run_suite(pytester, ANYIO, TESTS, "-o", "scope_leaks=warn")
        result.assert_outcomes(passed=1, warnings=1)
        result.stdout.fnmatch_lines(["*ScopeLeakWarning: test_suite.py::test_leak left behind:"])

    def test_the_option_comes_before_the_ini_file(self, pytester: pytest.Pytester) -> None:
        pytester.makeini("[pytest]\nscope_leaks = error")
        run_suite(pytester, ANYIO, TESTS).assert_outcomes(passed=1, errors=1)
        run_suite(pytester, ANYIO, TESTS, "--scope-leaks=off").assert_outcomes(passed=1)

    def test_another_is_a_usage_error(self, pytester: pytest.Pytester) -> None:
        result = run_suite(pytester, ANYIO, TESTS, "-o", "scope_leaks=maybe")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(["ERROR: scope_leaks is one of error, warn, off, not 'maybe'."])

    def test_so_is_another_of_one_test(self, pytester: pytest.Pytester) -> None:
        """Before any test has run, and also where the check is off."""
        tests = "@pytest.mark.scope_leaks('wran')\ndef test(): assert False, 'not to be run'"
        result = run_suite(pytester, ANYIO, tests)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        assert "1 failed" not in str(result.stdout)
        result.stderr.fnmatch_lines(
            ["ERROR: scope_leaks is one of error, warn, off, not 'wran', at test_suite.py::test."]
        )

    def test_on_a_worker_the_test_says_it(self, pytester: pytest.Pytester) -> None:
        """A worker of pytest-xdist has no way to end the run with a usage error."""
        tests = "@pytest.mark.scope_leaks('wran')\ndef test(): pass"
        result = run_suite(pytester, ANYIO, tests, "-p", "xdist", "-n", "1")
        result.assert_outcomes(passed=1, errors=1)
        result.stdout.fnmatch_lines(
            ["E   *scope_leaks is one of error, warn, off, not 'wran', at test_suite*"]
        )

    def test_verbose_shows_the_stack(self, pytester: pytest.Pytester) -> None:
        tests = """
from scoped_async import scope

async def helper():
    await scope(name="left open").__aenter__()

@mark
async def test_leak():
    await helper()
"""
        result = run_suite(pytester, ANYIO, tests, "--scope-leaks=error", "-vv")
        result.stdout.fnmatch_lines(
            [
                "  - the scope left open, opened at test_suite.py:*; the stack, the innermost line last:",
                "*, in test_leak",
                "*await helper()",
                "*, in helper",
                '*await scope(name="left open").__aenter__()',
            ]
        )


class TestBesideOtherFailures:
    """The test may have failed already, or be expected to."""

    def test_that_a_test_may_fail_does_not_mean_that_it_may_leak(self, pytester: pytest.Pytester) -> None:
        tests = """
from scoped_async import scope

@pytest.fixture
def broken():
    yield
    raise LookupError("of the fixture")

@pytest.mark.xfail
@mark
async def test_leak():
    await scope(name="left open").__aenter__()
    assert False

@pytest.mark.xfail
@mark
async def test_leak_and_a_teardown_that_fails(broken):
    await scope(name="left open").__aenter__()
    assert False

@pytest.mark.xfail
@mark
async def test_no_leak(broken):
    async with scope():
        assert False
"""
        result = run_suite(pytester, ANYIO, tests, "--scope-leaks=error")
        # A teardown that fails counts as expected, too: three bodies, and the last teardown.
        result.assert_outcomes(xfailed=4, errors=2)
        result.stdout.fnmatch_lines(
            [
                "test_suite.py::test_leak left behind:",
                "E   test_suite.py::test_leak_and_a_teardown_that_fails left behind:",
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
        result = run_suite(pytester, ANYIO, tests, "--scope-leaks=error", "-rN")
        result.assert_outcomes(passed=2, errors=2)
        assert str(result.stdout).count("left behind") == 1
        result.stdout.fnmatch_lines(
            ["E   LookupError: of the fixture", "E   test_suite.py::test_leak left behind:"]
        )
