"""The pytest plugin that puts a scoped session under SQLAlchemy's own suite.

`run.py` loads it with `-p adapter`. `--route=stock` sends the suite's
`async_session` fixture through SQLAlchemy's `async_scoped_session`;
`--route=ours` sends it through `AsyncScopedSession`, and the tests that make
an `async_scoped_session` themselves get ours too.

SQLAlchemy runs every test, also a sync one, as a coroutine of one
`asyncio.Runner`, and all of these run in that Runner's one Context. So a scope
entered through the Runner is the ambient scope of the test that runs next.

Nothing of SQLAlchemy may be imported at the top: its conftest comes first.
"""

from __future__ import annotations

from asyncio import current_task
from collections.abc import Generator
from importlib import import_module
from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--route", choices=["stock", "ours"], required=True)


@pytest.hookimpl(trylast=True)  # after SQLAlchemy's, which sets up its databases
def pytest_sessionstart(session: pytest.Session) -> None:
    if session.config.option.route == "ours":
        public: Any = import_module("sqlalchemy.ext.asyncio")
        public.async_scoped_session = _without_scopefunc()

    # Only now: the module takes `async_scoped_session` by name.
    suite: Any = import_module("test.ext.asyncio.test_session")
    suite.AsyncFixture.async_session = _scoped_fixture()


def _without_scopefunc() -> type:
    """Our proxy with the signature of `async_scoped_session`."""
    from scoped_async import AsyncScopedSession

    class AmbientScopedSession(AsyncScopedSession[Any]):
        def __init__(self, session_factory: Any, scopefunc: Any = None) -> None:
            super().__init__(session_factory)

    return AmbientScopedSession


def _scoped_fixture() -> Any:
    """The suite's `async_session`: the same session, behind a scoped proxy."""
    from sqlalchemy.ext import asyncio
    from sqlalchemy.testing import config

    @config.fixture
    def async_session(self: Any, async_engine: Any) -> Any:
        factory = asyncio.async_sessionmaker(async_engine)
        return asyncio.async_scoped_session(factory, scopefunc=current_task)

    return async_session


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """With ours, a scope around the test's body; what its exit raises fails the test."""
    if item.config.option.route == "stock":
        return (yield)

    from sqlalchemy.testing.asyncio import _async_util

    from scoped_async import scope

    ambient = scope(name=item.nodeid)
    _async_util.run(ambient.__aenter__)
    try:
        result = yield
    except BaseException as error:
        _async_util.run(ambient.__aexit__, type(error), error, error.__traceback__)
        raise
    _async_util.run(ambient.__aexit__, None, None, None)
    return result
