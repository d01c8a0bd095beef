"""What the proxy has of SQLAlchemy's `async_scoped_session`: its registry, factory and class methods."""

from typing import Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.exc import InvalidRequestError, SADeprecationWarning, SAWarning
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import QueuePool

from scoped_async import AsyncScopedSession, NoScopeError, scope


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "registry_user"
    id: Mapped[int] = mapped_column(primary_key=True)


class Recorded(AsyncSession):
    """A real session that tells how often it was closed."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.closed = 0

    async def close(self) -> None:
        await super().close()
        self.closed += 1


Proxy = AsyncScopedSession[Recorded]


@pytest.fixture
async def session(sqlite_engine: AsyncEngine) -> Proxy:
    async with sqlite_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return AsyncScopedSession(async_sessionmaker(sqlite_engine, class_=Recorded))


def connections_out(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, QueuePool)
    return engine.pool.checkedout()


class TestCall:
    """``Session()`` is the session itself, and may be made with arguments while there is none."""

    async def test_it_is_the_same_in_one_scope_and_another_in_the_next(self, session: Proxy) -> None:
        async with scope():
            first = session()
            assert type(first) is Recorded
            assert session() is session.registry() is first
            async with scope():
                assert session() is not first

    async def test_arguments_go_to_the_factory(self, session: Proxy) -> None:
        async with scope():
            assert session(autoflush=False).autoflush is False
            assert session.autoflush is False
            async with scope():
                assert session().autoflush is True

    async def test_arguments_come_too_late_once_there_is_one(self, session: Proxy) -> None:
        async with scope():
            first = session()
            with pytest.raises(InvalidRequestError, match="already present"):
                session(autoflush=False)
            assert session() is first

    async def test_the_factory_is_the_one_given_and_any_callable_will_do(self, session: Proxy) -> None:
        made: list[Recorded] = []

        def factory() -> Recorded:
            made.append(Recorded())
            return made[-1]

        assert AsyncScopedSession(factory).session_factory is factory
        async with scope():
            assert AsyncScopedSession(factory)() is made[0]


class TestRegistry:
    """``has()``, ``set()`` and ``clear()`` act on the current scope; it closes every session it has had."""

    async def test_has_says_whether_there_is_one(self, session: Proxy) -> None:
        assert not session.registry.has()
        async with scope():
            assert not session.registry.has()
            session.expunge_all()
            assert session.registry.has()
            async with scope():
                assert not session.registry.has()
        assert not session.registry.has()

    async def test_set_replaces_it(self, session: Proxy, sqlite_engine: AsyncEngine) -> None:
        async with scope():
            before = session()
            await session.execute(text("SELECT 1"))
            session.registry.set(after := Recorded(sqlite_engine))
            assert session() is after
            await session.execute(text("SELECT 1"))
            session.registry.set(after)  # it is the one already
            assert connections_out(sqlite_engine) == 2
        assert (before.closed, after.closed) == (1, 1)
        assert connections_out(sqlite_engine) == 0

    async def test_clear_forgets_it(self, session: Proxy, sqlite_engine: AsyncEngine) -> None:
        async with scope(commit=True):
            before = session()
            session.add(User(id=1))
            await session.flush()
            session.registry.clear()
            assert not session.registry.has()
            assert session() is not before
        assert before.closed == 1
        assert connections_out(sqlite_engine) == 0
        async with scope():
            assert await session.get(User, 1) is None, "what was open in it is rolled back"

    async def test_clear_without_a_session_does_nothing(self, session: Proxy) -> None:
        async with scope():
            session.registry.clear()
            assert not session.registry.has()

    async def test_they_need_a_scope(self, session: Proxy) -> None:
        for use in (session.registry, session.registry.clear, lambda: session.registry.set(Recorded())):
            with pytest.raises(NoScopeError):
                use()


class TestRemove:
    """``remove()`` closes the session of the current scope; the next use makes another."""

    async def test_it_closes_and_forgets(self, session: Proxy, sqlite_engine: AsyncEngine) -> None:
        async with scope():
            before = session()
            await session.execute(text("SELECT 1"))
            await session.remove()
            assert connections_out(sqlite_engine) == 0
            assert before.closed == 1
            assert not session.registry.has()
            assert session() is not before
        assert before.closed == 1

    async def test_without_a_session_it_does_nothing(self, session: Proxy) -> None:
        async with scope():
            await session.remove()
            assert not session.registry.has()

    async def test_without_a_scope(self, session: Proxy) -> None:
        with pytest.raises(NoScopeError, match=r"Session\.remove\(\)"):
            await session.remove()


class TestLoadedObjects:
    """What was loaded stays loaded when the scope ends without a commit, as after `AsyncSession.close()`."""

    @pytest.fixture(autouse=True)
    async def user(self, session: Proxy) -> None:
        async with scope(commit=True):
            session.add(User(id=1))

    @pytest.mark.parametrize("readonly", [False, True])
    async def test_after_a_clean_exit(self, session: Proxy, readonly: bool) -> None:
        async with scope(readonly=readonly):
            user = await session.get_one(User, 1)
        assert inspect(user).detached
        assert user.id == 1

    async def test_after_an_exception(self, session: Proxy) -> None:
        @scope(commit=True)
        async def fail(users: list[User]) -> None:
            users.append(await session.get_one(User, 1))
            raise LookupError

        users: list[User] = []
        with pytest.raises(LookupError):
            await fail(users)
        assert users[0].id == 1

    async def test_a_callback_gets_an_empty_session(self, session: Proxy) -> None:
        seen: list[object] = []
        async with scope() as current:
            user = await session.get_one(User, 1)
            user.id = 2
            current.after_rollback(lambda: seen.extend([*session, *session.dirty, user.id]))
        assert seen == [2]


class TestConfigure:
    """``configure()`` changes the factory, and warns when the current scope has its session already."""

    async def test_before_the_first_use(self, session: Proxy) -> None:
        session.configure(autoflush=False)
        async with scope():
            session.configure(info={"made": "later"})
            assert session.autoflush is False
            assert session.info == {"made": "later"}

    async def test_after_it(self, session: Proxy) -> None:
        async with scope():
            before = session()
            with pytest.warns(SAWarning, match="already been created") as warned:
                session.configure(autoflush=False)
            assert warned[0].filename == __file__
            assert session() is before
            assert session.autoflush is True


class TestClassMethods:
    """``close_all()``, ``object_session()`` and ``identity_key()`` are SQLAlchemy's, and need no scope."""

    async def test_object_session(self, session: Proxy) -> None:
        user = User(id=1)
        assert AsyncScopedSession.object_session(user) is None
        async with scope():
            session.add(user)
            assert session.object_session(user) is session().sync_session

    def test_identity_key(self, session: Proxy) -> None:
        assert session.identity_key(User, 1) == AsyncScopedSession.identity_key(User, 1)
        assert AsyncScopedSession.identity_key(User, 1) == AsyncSession.identity_key(User, 1)

    async def test_close_all(self, session: Proxy, sqlite_engine: AsyncEngine) -> None:
        async with scope():
            await session.execute(text("SELECT 1"))
            with pytest.warns(SADeprecationWarning, match="close_all_sessions"):
                await AsyncScopedSession.close_all()
            assert connections_out(sqlite_engine) == 0
