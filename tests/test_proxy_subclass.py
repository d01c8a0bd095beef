"""A subclass of the proxy, for a session class that has more than SQLAlchemy's."""

import asyncio
from inspect import iscoroutinefunction

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
