"""A subclass of the proxy, for a session class that has more than SQLAlchemy's."""

import asyncio
import subprocess
import sys
from inspect import iscoroutinefunction
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from scoped_async import AsyncScopedSession, ConcurrentUseError, NoScopeError, scope
from scoped_async.session import delegate


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "subclass_user"
    id: Mapped[int] = mapped_column(primary_key=True)


class CountingSession(AsyncSession):
    async def count(self, model: type[Base]) -> int:
        return (await self.execute(select(func.count()).select_from(model))).scalar_one()

    def add_user(self) -> None:
        self.add(User())


class CountingScoped(AsyncScopedSession[CountingSession]):
    count = delegate(CountingSession.count)
    add_user = delegate(CountingSession.add_user)

    async def users(self) -> int:
        return await self.count(User)

    def in_transaction(self) -> bool:
        return True


class AuditedScoped(AsyncScopedSession[AsyncSession]):
    """One that overrides what is delegated, as a subclass of `async_scoped_session` would."""

    def add(self, instance: object, _warn: bool = True) -> None:
        added.append(instance)
        super().add(instance)

    async def execute(self, statement: Any, *args: Any, **kwargs: Any) -> Any:
        executed.append(statement)
        return await super().execute(statement, *args, **kwargs)


added: list[object] = []
executed: list[object] = []


class TestSuper:
    """What a subclass overrides is there for its super(), whatever was used before."""

    @pytest.fixture
    async def audited(self, sqlite_engine: AsyncEngine) -> AuditedScoped:
        async with sqlite_engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        return AuditedScoped(async_sessionmaker(sqlite_engine))

    async def test_it_reaches_the_session(self, audited: AuditedScoped) -> None:
        count = select(func.count()).select_from(User)
        async with scope():
            user = User()
            audited.add(user)
            assert user in audited
            assert (await audited.execute(count)).scalar_one() == 1
        assert added[-1] is user
        assert executed[-1] is count

    async def test_it_is_guarded(self, audited: AuditedScoped) -> None:
        with pytest.raises(NoScopeError, match=r"Session\.add"):
            audited.add(User())
        with pytest.raises(NoScopeError, match=r"Session\.execute"):
            await audited.execute(select(User))
        async with scope():
            results = await asyncio.gather(
                *(audited.execute(select(User)) for _ in range(2)), return_exceptions=True
            )
        assert isinstance(results[1], ConcurrentUseError)

    def test_before_anything_else_has_used_the_class(self) -> None:
        """In a process of its own: what another test has touched would be kept on the base class."""
        program = (
            "import asyncio\n"
            "from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker\n"
            "from test_proxy_subclass import AuditedScoped, User, scope\n"
            "async def main():\n"
            "    async with scope():\n"
            "        Session = AuditedScoped(async_sessionmaker())\n"
            "        Session.add(User())\n"
            "        print(len(Session.new))\n"
            "asyncio.run(main())"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=Path(__file__).parent, capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == ("1\n", "")

    async def test_a_subclass_of_it_overrides_it_once_more(self, audited: AuditedScoped) -> None:
        class Twice(AuditedScoped):
            def add(self, instance: object, _warn: bool = True) -> None:
                super().add(instance)
                super().add(instance)

        before = len(added)
        async with scope():
            Twice(audited.session_factory).add(User())
        assert len(added) == before + 2

    async def test_a_mixin_overrides_it_as_well(self, audited: AuditedScoped) -> None:
        class Mixin:
            def expunge(self, instance: object) -> None:
                expunged.append(instance)
                super().expunge(instance)  # type: ignore[misc]

        class Mixed(Mixin, AsyncScopedSession[AsyncSession]):
            pass

        expunged: list[object] = []
        Session = Mixed(audited.session_factory)
        async with scope():
            user = User()
            Session.add(user)
            Session.expunge(user)
            assert user not in Session
        assert expunged == [user]


class TestSubclass:
    """A subclass adds names of its own session class, each in one line, and keeps what it defines itself."""

    @pytest.fixture
    async def session(self, sqlite_engine: AsyncEngine) -> CountingScoped:
        async with sqlite_engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        return CountingScoped(async_sessionmaker(sqlite_engine, class_=CountingSession))

    async def test_added_names_are_delegated_as_the_others(self, session: CountingScoped) -> None:
        with pytest.raises(NoScopeError, match=r"Session\.count"):
            await session.count(User)
        async with scope():
            session.add_user()
            assert await session.count(User) == 1
        assert {"count", "add_user"} <= vars(CountingScoped).keys()
        assert iscoroutinefunction(session.count)

    async def test_what_it_defines_itself_comes_first(self, session: CountingScoped) -> None:
        async with scope():
            session.add_user()
            assert await session.users() == 1
            await session.rollback()
            assert session.in_transaction()

    async def test_an_added_coroutine_method_is_guarded(self, session: CountingScoped) -> None:
        async with scope():
            results = await asyncio.gather(session.count(User), session.count(User), return_exceptions=True)
            assert results[0] == 0
            assert isinstance(results[1], ConcurrentUseError)
            assert "count()" in str(results[1])

    def test_the_table_of_the_base_stays_as_it_is(self, session: CountingScoped) -> None:
        assert {"count", "add_user", "execute"} <= set(dir(session))
        plain = AsyncScopedSession(async_sessionmaker())
        with pytest.raises(AttributeError, match="no 'count'"):
            getattr(plain, "count")  # noqa: B009  # a type checker refuses plain.count
