"""What a newcomer's slip is answered with: the error is raised where the slip is, and names the way out."""

from collections.abc import Coroutine
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from scoped_async import AsyncScopedSession, ScopedResource, scope


class TestSlips:
    """Each of them is a TypeError at the call, and nothing has happened."""

    def test_scope_without_its_parentheses(self) -> None:
        with pytest.raises(TypeError, match=r"wants its parentheses: `@scope\(\)`"):

            @scope  # type: ignore[call-arg,arg-type]
            async def unit() -> None: ...

    def test_an_option_by_its_place(self) -> None:
        with pytest.raises(TypeError, match="keywords only"):
            scope(True)  # type: ignore[call-arg]

    def test_an_option_that_there_is_not(self) -> None:
        with pytest.raises(TypeError, match=r"scope\(\).* 'comit'"):
            scope(comit=True)  # type: ignore[call-arg]

    async def test_a_session_in_the_place_of_a_factory(self, sqlite_engine: AsyncEngine) -> None:
        with pytest.raises(TypeError, match=r"async_sessionmaker\(engine\)`, and not .*AsyncSession"):
            AsyncScopedSession(AsyncSession(sqlite_engine))  # type: ignore[arg-type]

    async def test_an_engine_in_the_place_of_a_factory(self, sqlite_engine: AsyncEngine) -> None:
        with pytest.raises(TypeError, match=r"async_sessionmaker\(engine\)`, and not .*AsyncEngine"):
            AsyncScopedSession(sqlite_engine)  # type: ignore[arg-type]

    def test_the_scope_function_of_sqlalchemys_class(self) -> None:
        with pytest.raises(TypeError, match="'scopefunc'"):
            AsyncScopedSession(async_sessionmaker(), scopefunc=id)  # type: ignore[call-arg]

    def test_an_async_factory_of_a_resource(self) -> None:
        async def connect() -> str:
            raise NotImplementedError

        with pytest.raises(TypeError, match=r"factory of a ScopedResource is not async.*connect"):
            ScopedResource(connect)

    @pytest.mark.parametrize("register", ["after_commit", "after_rollback"])
    async def test_a_coroutine_in_the_place_of_a_callback(self, register: str) -> None:
        async def send() -> None:
            raise NotImplementedError

        coroutine: Coroutine[Any, Any, None] = send()
        async with scope(commit=True) as opened:
            with pytest.raises(TypeError, match=r"write `after_commit\(send, message\)`"):
                getattr(opened, register)(coroutine)
        coroutine.close()
