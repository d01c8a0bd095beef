"""The pytest plugin: `scoped_isolation` rolls back each test, ``--scope-leaks`` finds what one left behind.

Loaded in every run of pytest, so it imports nothing else of the package, nor SQLAlchemy, before it is used.
"""

from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import pytest

if TYPE_CHECKING:
    from ._leaks import LeakCheck

_MODES = ("error", "warn", "off")
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
    from .testing import isolate

    async with isolate(*scoped_async_sessions) as connections:
        yield connections


def _asyncio_fixtures() -> ModuleType:
    """One fixture for each event loop that pytest-asyncio can run a test in."""
    import pytest_asyncio

    def make(loop_scope: _LoopScope) -> object:
        @pytest_asyncio.fixture(loop_scope=loop_scope, name=f"_scoped_isolation_{loop_scope}")
        async def isolation(scoped_async_sessions: Any) -> AsyncGenerator[Any]:
            from .testing import isolate

            async with isolate(*scoped_async_sessions) as connections:
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
    if config.pluginmanager.has_plugin("asyncio"):
        config.pluginmanager.register(_asyncio_fixtures(), "scoped_async.asyncio_fixtures")
    mode = config.getoption("--scope-leaks") or config.getini("scope_leaks")
    _check_mode(mode)
    if mode != "off":
        from ._leaks import LeakCheck

        check = LeakCheck(with_stacks=config.get_verbosity() >= 2)
        config.pluginmanager.register(_Leaks(check, mode, config), "scoped_async.leaks")


def _check_mode(mode: object) -> None:
    if mode not in _MODES:
        raise pytest.UsageError(f"scope_leaks is one of {', '.join(_MODES)}, not {mode!r}.")


class _Leaks:
    """The hooks of the leak check; registered while it is on."""

    def __init__(self, check: "LeakCheck", mode: str, config: pytest.Config) -> None:
        self.check = check
        self.mode = mode
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
        try:
            result = yield
        except BaseException as error:
            if leaks := self.check.collect():
                error.add_note(_message(item, leaks))
            raise
        mode = self.mode
        if marker := item.get_closest_marker("scope_leaks"):
            mode = marker.args[0] if marker.args else ""
            _check_mode(mode)
        if (leaks := self.check.collect()) and mode == "error":
            pytest.fail(_message(item, leaks), pytrace=False)
        elif leaks and mode == "warn":
            item.warn(ScopeLeakWarning(_message(item, leaks)))
        return result


def _message(item: pytest.Item, leaks: list[str]) -> str:
    found = "\n".join(f"  - {leak}" for leak in leaks)
    return (
        f"{item.nodeid} left behind:\n{found}\n"
        "Leave every scope by `async with`, close every session, and await the tasks that use them, or end "
        "them in a fixture."
    )
