"""The pytest plugin: `scoped_isolation` rolls back each test, ``--scope-leaks`` finds what one left behind.

Loaded in every run of pytest, so it imports nothing else of the package, nor SQLAlchemy, before it is used.
"""

import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from ._leaks import LeakCheck

_MODES = ("error", "warn", "off")
_CHECK = "scoped_async.leaks"
_LoopScope = Literal["function", "class", "module", "package", "session"]
_LOOP_SCOPES: tuple[_LoopScope, ...] = ("function", "class", "module", "package", "session")


class ScopeLeakWarning(pytest.PytestWarning):
    """A test left a scope, a session or a connection behind, and ``scope_leaks`` is ``warn``.

    .. versionadded:: 0.1
    """


# -- rollback per test


@pytest.fixture
def scoped_async_sessions() -> Any:
    """Which sessions `scoped_isolation` isolates: override it to return ``[(Session, engine), ...]``.

    .. versionadded:: 0.1
    """
    pytest.fail(
        "scoped_isolation needs to know your sessions. Override the fixture in your conftest.py:\n\n"
        "    @pytest.fixture\n"
        "    def scoped_async_sessions(engine):\n"
        "        return [(Session, engine)]\n",
        pytrace=False,
    )


@pytest.fixture
def scoped_isolation(request: pytest.FixtureRequest) -> Any:
    """Roll back after the test whatever the sessions of ``scoped_async_sessions`` did in it; see `isolate`.

    Its value is the connection of each pair, in a tuple. For tests that pytest-asyncio or anyio's plugin
    runs.

    .. versionadded:: 0.1
    """
    if (marker := request.node.get_closest_marker("asyncio")) is not None:
        default = request.config.getini("asyncio_default_test_loop_scope")
        loop_scope = marker.kwargs.get("loop_scope") or default or "function"
        return request.getfixturevalue(f"_scoped_isolation_{loop_scope}")
    if "anyio_backend" in request.fixturenames:
        return request.getfixturevalue("_scoped_isolation_anyio")
    pytest.fail(
        "scoped_isolation is for async tests: it works in the event loop that pytest-asyncio or anyio's "
        "plugin runs the test in. Where the application runs in a loop of its own (a test client in a sync "
        "test), use clone_database.",
        pytrace=False,
    )


@pytest.fixture
async def _scoped_isolation_anyio(anyio_backend_name: str, scoped_async_sessions: Any) -> AsyncGenerator[Any]:
    if anyio_backend_name != "asyncio":
        pytest.fail(
            f"scoped_isolation works on asyncio, and this test runs on {anyio_backend_name}. Override the "
            'fixture anyio_backend to return "asyncio".',
            pytrace=False,
        )
    from ._isolation import isolate_sessions

    async with isolate_sessions(scoped_async_sessions) as connections:
        yield connections


def _asyncio_fixtures() -> ModuleType:
    """One fixture for each event loop that pytest-asyncio can run a test in."""
    import pytest_asyncio

    def make(loop_scope: _LoopScope) -> object:
        @pytest_asyncio.fixture(loop_scope=loop_scope, name=f"_scoped_isolation_{loop_scope}")
        async def isolation(scoped_async_sessions: Any) -> AsyncGenerator[Any]:
            from ._isolation import isolate_sessions

            async with isolate_sessions(scoped_async_sessions) as connections:
                yield connections

        return isolation

    module = ModuleType("scoped_async_asyncio_fixtures")
    for loop_scope in _LOOP_SCOPES:
        setattr(module, loop_scope, make(loop_scope))
    return module


# -- the leak check


def pytest_addoption(parser: pytest.Parser) -> None:
    text = "what to do about a test that leaves a scope, a session or a connection behind: error, warn or off"
    parser.getgroup("scoped_async").addoption("--scope-leaks", choices=_MODES, help=text)
    parser.addini("scope_leaks", text, default="off")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "scope_leaks(mode): error, warn or off, for this test.")
    plugin = sys.modules.get("pytest_asyncio.plugin")  # whatever name it was loaded by
    if plugin is not None and config.pluginmanager.is_registered(plugin):
        config.pluginmanager.register(_asyncio_fixtures(), "scoped_async.asyncio_fixtures")
    mode = _checked(config.getoption("--scope-leaks") or config.getini("scope_leaks"))
    if mode != "off":
        _check_leaks(config, mode)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    try:
        modes = {_mode_of(item, "off") for item in items}
    except pytest.UsageError:
        if not hasattr(config, "workerinput"):
            raise
        modes = {"error"}  # a worker of pytest-xdist cannot say it: the test will, at its end
    if modes - {"off"} and not config.pluginmanager.has_plugin(_CHECK):
        _check_leaks(config, "off")


def _check_leaks(config: pytest.Config, mode: str) -> None:
    from ._leaks import LeakCheck

    check = LeakCheck(with_stacks=config.get_verbosity() >= 2)
    config.pluginmanager.register(_Leaks(check, mode, config), _CHECK)


def _mode_of(item: pytest.Item, default: str) -> str:
    marker = item.get_closest_marker("scope_leaks")
    if marker is None:
        return default
    return _checked(marker.args[0] if marker.args else marker.kwargs.get("mode"), f", at {item.nodeid}")


def _checked(mode: Any, where: str = "") -> str:
    if mode not in _MODES:
        raise pytest.UsageError(f"scope_leaks is one of {', '.join(_MODES)}, not {mode!r}{where}.")
    return str(mode)


class _Leaks:
    """The hooks of the leak check; registered while it is on."""

    def __init__(self, check: "LeakCheck", mode: str, config: pytest.Config) -> None:
        self.check = check
        self.mode = mode
        self.failed = False
        """Whether the test that is ending has left something behind, and may not."""
        running = ExitStack()
        running.enter_context(check.running())
        config.add_cleanup(running.close)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, Any, Any]:
        if fixturedef.scope == "function":
            return (yield)
        self.check.fixtures.append(fixturedef)
        try:
            return (yield)
        finally:
            self.check.fixtures.pop()

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        self.check.fixture_ended(fixturedef)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, Any, Any]:
        self.failed = False
        try:
            result = yield
        except BaseException as error:
            if (leaks := self.check.collect()) and (mode := _mode_of(item, self.mode)) != "off":
                self.failed = mode == "error"
                error.add_note(_message(item, leaks))
            raise
        leaks, mode = self.check.collect(), _mode_of(item, self.mode)
        self.failed = bool(leaks) and mode == "error"
        if self.failed:
            pytest.fail(_message(item, leaks), pytrace=False)
        elif leaks and mode == "warn":
            item.warn(ScopeLeakWarning(_message(item, leaks)))
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(self, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
        report = yield
        if call.when == "teardown" and self.failed:
            report.outcome = "failed"  # to fail what is marked xfail may, to leave something behind may not
            if hasattr(report, "wasxfail"):
                del report.wasxfail
        return report


def _message(item: pytest.Item, leaks: list[str]) -> str:
    found = "\n".join(f"  - {leak}" for leak in leaks)
    return (
        f"{item.nodeid} left behind:\n{found}\n"
        "Leave every scope by `async with`, close every session, and await the tasks that use them, or end "
        "them in a fixture."
    )
