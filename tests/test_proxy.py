"""The proxy: which names it has, how they are delegated, and that to probe it does no harm."""

import asyncio
import copy
import pickle
from inspect import isawaitable, iscoroutinefunction

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from scoped_async import AsyncScopedSession, NoScopeError, scope
from scoped_async._proxy import Kind


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "proxy_user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
async def session(sqlite_engine: AsyncEngine) -> AsyncScopedSession[AsyncSession]:
    """A proxy of its own for every test, since it keeps its delegates; one user is there."""
    async with sqlite_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    proxy = AsyncScopedSession(async_sessionmaker(sqlite_engine, expire_on_commit=False))
    async with scope(commit=True):
        proxy.add(User(id=1, name="Ada"))
    return proxy


UNBOUND = AsyncScopedSession(async_sessionmaker())
NAMES, REFUSED = AsyncScopedSession._names, AsyncScopedSession._refused
ATTRIBUTES = sorted(name for name, line in NAMES.items() if line.kind in (Kind.ATTRIBUTE, Kind.WRITABLE))
METHODS = sorted(NAMES.keys() - ATTRIBUTES)


def public(names: object) -> set[str]:
    assert isinstance(names, list | dict)
    return {name for name in names if not name.startswith("_")}


class TestAllowlist:
    """What SQLAlchemy documents is either allowed or refused with a reason; nothing else is there."""

    def test_it_is_what_the_installed_sqlalchemy_documents(self) -> None:
        documented = public(dir(AsyncSession)) | public(AsyncSession.__annotations__)
        documented |= public(dir(async_scoped_session)) | public(
            vars(async_scoped_session(async_sessionmaker(), int))
        )
        assert public(dir(UNBOUND)) == documented - REFUSED.keys()

    def test_it_has_what_the_scoped_session_of_sqlalchemy_forgot(self) -> None:
        forgotten = {"run_sync", "get_transaction", "get_nested_transaction"}
        assert forgotten | {"in_transaction", "in_nested_transaction"} <= public(dir(UNBOUND))

    @pytest.mark.parametrize("name", sorted(NAMES))
    def test_each_kind_is_what_the_name_is_there(self, name: str) -> None:
        real = getattr(AsyncSession, name, getattr(async_scoped_session, name, None))
        kind = NAMES[name].kind
        assert iscoroutinefunction(real) == (kind in (Kind.OPERATION, Kind.STREAM, Kind.ENDING, Kind.DRIVER))
        if isinstance(real, property):
            assert kind is (Kind.ATTRIBUTE if real.fset is None else Kind.WRITABLE)
        else:
            assert kind not in (Kind.ATTRIBUTE, Kind.WRITABLE)

    @pytest.mark.parametrize(
        "name", ["sync_session", "sync_session_class", "dispatch", "bind_mapper", "bind_table"]
    )
    def test_a_refused_name_says_why(self, name: str) -> None:
        with pytest.raises(
            AttributeError, match=rf"no '{name}': {REFUSED[name][:20]}.* `Session\(\)` returns"
        ):
            getattr(UNBOUND, name)

    @pytest.mark.parametrize("name", ["exec", "query", "_proxied", "__wrapped__", "__json__"])
    def test_an_unknown_name_says_how_to_reach_the_real_session(self, name: str) -> None:
        with pytest.raises(AttributeError, match=r"`Session\(\)` returns the real session"):
            getattr(UNBOUND, name)

    def test_dunders_of_the_session_are_written_out(self) -> None:
        for name in ("__contains__", "__iter__", "__aenter__", "__aexit__"):
            assert name in vars(AsyncScopedSession)


class TestWithoutAScope:
    """A known name without a scope raises `NoScopeError`, never `AttributeError`."""

    @pytest.mark.parametrize("name", METHODS)
    async def test_methods(self, name: str) -> None:
        method = getattr(UNBOUND, name)

        async def call() -> None:
            if isawaitable(result := method()):
                await result

        with pytest.raises(NoScopeError, match=rf"Session\.{name}"):
            await call()

    @pytest.mark.parametrize("name", ATTRIBUTES)
    def test_attributes(self, name: str) -> None:
        with pytest.raises(NoScopeError, match=rf"Session\.{name}"):
            getattr(UNBOUND, name)

    def test_assignments(self) -> None:
        with pytest.raises(NoScopeError, match=r"Session\.autoflush"):
            UNBOUND.autoflush = False

    def test_what_is_written_out(self) -> None:
        with pytest.raises(NoScopeError, match=r"Session\(\) needs a scope"):
            UNBOUND()
        with pytest.raises(NoScopeError, match=r"Session\(\) needs a scope"):
            UNBOUND(autoflush=False)
        with pytest.raises(NoScopeError):
            assert object() not in UNBOUND
        with pytest.raises(NoScopeError):
            iter(UNBOUND)


class TestDelegates:
    """Methods bind late and are made once; attributes are looked up on every access."""

    async def test_to_take_a_method_touches_nothing(self, session: AsyncScopedSession[AsyncSession]) -> None:
        add = session.add
        async with scope():
            assert session.execute == session.execute
            assert not session.registry.has()
            add(user := User(name="Grace"))
            assert user in session

    async def test_a_delegate_finds_the_scope_of_each_call(
        self, session: AsyncScopedSession[AsyncSession]
    ) -> None:
        expunge_all, get = session.expunge_all, session.get
        users: list[User | None] = []
        for _ in range(2):
            async with scope():
                users.append(await get(User, 1))
                expunge_all()
        first, second = users
        assert first is not None
        assert first is not second

    @pytest.mark.parametrize("name", METHODS)
    def test_a_delegate_is_kept_on_the_class(self, name: str) -> None:
        proxy = AsyncScopedSession(async_sessionmaker())
        delegate = getattr(proxy, name)
        assert vars(AsyncScopedSession)[name] is delegate.__func__
        assert name not in vars(proxy)

    @pytest.mark.parametrize("name", METHODS)
    def test_a_delegate_looks_like_the_method(self, name: str) -> None:
        delegate, method = getattr(UNBOUND, name), getattr(AsyncSession, name)
        assert (delegate.__name__, delegate.__doc__) == (name, method.__doc__)
        assert iscoroutinefunction(delegate) == iscoroutinefunction(method)

    async def test_attributes_are_those_of_the_current_session(
        self, session: AsyncScopedSession[AsyncSession]
    ) -> None:
        async with scope():
            session.add(user := User(name="Grace"))
            assert list(session.new) == [user]
            async with scope():
                assert not session.new
        assert not public(vars(session)) & {"new"}

    async def test_a_coroutine_can_be_a_task(self, session: AsyncScopedSession[AsyncSession]) -> None:
        async with scope():
            result = await asyncio.create_task(session.execute(select(User.name)))
            assert result.scalar_one() == "Ada"

    async def test_in_and_iter(self, session: AsyncScopedSession[AsyncSession]) -> None:
        async with scope():
            user = await session.get_one(User, 1)
            assert user in session
            assert User(name="Grace") not in session
            assert list(session) == [user]


class TestAssignment:
    """Only what SQLAlchemy lets one assign to may be assigned to."""

    async def test_a_writable_name_writes_the_session(
        self, session: AsyncScopedSession[AsyncSession]
    ) -> None:
        async with scope():
            session.autoflush = False
            assert session().autoflush is False
        async with scope():
            assert session.autoflush is True

    @pytest.mark.parametrize("name", sorted(name for name in NAMES if NAMES[name].kind is not Kind.WRITABLE))
    def test_a_read_only_name(self, name: str) -> None:
        with pytest.raises(AttributeError, match=rf"'{name}' .* cannot be assigned to"):
            setattr(UNBOUND, name, None)

    @pytest.mark.parametrize("name", [*REFUSED, "autoflsh", "registry", "session_factory"])
    def test_any_other_name(self, name: str) -> None:
        with pytest.raises(AttributeError, match=rf"no '{name}'"):
            setattr(UNBOUND, name, None)


class TestProbes:
    """To look at the proxy, as libraries and debuggers do, touches no session."""

    async def test_it_passes_for_a_scoped_session_but_not_for_a_session(
        self, session: AsyncScopedSession[AsyncSession]
    ) -> None:
        async with scope():
            assert isinstance(session, async_scoped_session)
            assert not isinstance(session, AsyncSession)  # to a type checker it is one
            assert type(session) is AsyncScopedSession
            assert not session.registry.has()

    async def test_probes_make_no_session(self, session: AsyncScopedSession[AsyncSession]) -> None:
        async with scope():
            assert hasattr(session, "execute")
            assert not hasattr(session, "__clause_element__")
            assert "execute" in dir(session)
            assert repr(session).startswith("AsyncScopedSession(async_sessionmaker(")
            assert len({session: 1}) == 1
            assert session == session
            assert not session.registry.has()

    async def test_a_copy_is_the_proxy_itself(self, session: AsyncScopedSession[AsyncSession]) -> None:
        async with scope():
            assert copy.copy(session) is session
            assert copy.deepcopy({"session": session})["session"] is session
            assert not session.registry.has()

    async def test_it_cannot_be_pickled(self, session: AsyncScopedSession[AsyncSession]) -> None:
        async with scope():
            with pytest.raises((pickle.PicklingError, TypeError)):
                pickle.dumps(session)
            assert not session.registry.has()

    async def test_it_is_no_context_manager(self, session: AsyncScopedSession[AsyncSession]) -> None:
        async with scope():
            with pytest.raises(TypeError, match=r"scope\(commit=True\).*Session\.begin\(\)"):
                async with session:
                    pass
            assert not session.registry.has()
