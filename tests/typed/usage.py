"""What the two type checkers make of right code: checked by `test_typing`, never run."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, assert_type, overload

from anyio import CancelScope, TaskHandle
from anyio.abc import TaskGroup, TaskStatus
from sqlalchemy import Executable, Result, ScalarResult, insert, select, text
from sqlalchemy.ext.asyncio import (
    AsyncConnection,
    AsyncResult,
    AsyncScalarResult,
    AsyncSession,
    AsyncSessionTransaction,
    async_sessionmaker,
    create_async_engine,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm import Session as SyncSession

from scoped_async import (
    AsyncScopedSession,
    Scope,
    ScopedResource,
    create_task_group,
    current_scope,
    is_retryable,
    scope,
)
from scoped_async.session import delegate

T = TypeVar("T")


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


engine = create_async_engine("postgresql+asyncpg://")
Session = AsyncScopedSession(async_sessionmaker(engine), readonly_bind=engine)


# -- The proxy stands for an AsyncSession, with all its signatures.


def wants_a_session(session: AsyncSession) -> None: ...


async def sessions() -> None:
    assert_type(Session, AsyncScopedSession[AsyncSession])
    assert_type(Session(), AsyncSession)
    assert_type(Session(autoflush=False), AsyncSession)
    assert_type(Session.registry(), AsyncSession)
    assert_type(Session.session_factory, async_sessionmaker[AsyncSession])
    wants_a_session(Session)
    wants_a_session(Session())
    Session.registry.set(Session())
    assert_type(Session.registry.has(), bool)
    assert_type(Session.object_session(User()), SyncSession | None)
    Session.configure(autoflush=False)
    await Session.remove()
    await AsyncScopedSession.close_all()


async def results() -> None:
    query = select(User.id, User.name)
    assert_type((await Session.execute(query)).tuples().one(), tuple[int, str])
    assert_type((await Session.execute(select(User))).scalar_one(), User)
    assert_type((await Session.scalars(insert(User).returning(User.id))).one(), int)
    untyped: Result[Any] = await Session.execute(text("SELECT 1"), {"a": 1}, execution_options={"b": 2})
    assert_type(untyped.scalar_one(), Any)
    found: User | None = await Session.scalar(select(User))
    assert_type(found, User | None)
    assert_type(await Session.scalars(select(User)), ScalarResult[User])
    assert_type((await Session.scalars(select(User.name))).all(), Sequence[str])
    assert_type(await Session.stream_scalars(select(User)), AsyncScalarResult[User])
    async for id, name in (await Session.stream(query)).tuples():
        assert_type(id, int)
        assert_type(name, str)
    streamed: AsyncResult[Any] = await Session.stream(text("SELECT 1"))
    assert_type(await streamed.scalar_one(), Any)


async def objects() -> None:
    assert_type(await Session.get(User, 1, populate_existing=True), User | None)
    assert_type(await Session.get_one(User, 1), User)
    user = await Session.merge(User(id=1))
    assert_type(user, User)
    Session.add(user)
    Session.add_all([user])
    assert_type(user in Session, bool)
    assert_type(Session.is_modified(user), bool)
    await Session.delete(user)
    await Session.flush([user])
    await Session.refresh(user, ["name"], with_for_update=True)


async def transactions() -> None:
    async with Session.begin() as transaction:
        assert_type(transaction, AsyncSessionTransaction)
    async with Session.begin_nested() as savepoint:
        assert_type(savepoint, AsyncSessionTransaction)
    assert_type(Session.in_transaction(), bool)
    assert_type(Session.get_transaction(), AsyncSessionTransaction | None)
    assert_type(await Session.connection(), AsyncConnection)
    await Session.commit()
    await Session.rollback()
    await Session.close()


def count(session: SyncSession, minimum: int) -> str:
    return str(minimum)


async def synchronous() -> None:
    assert_type(await Session.run_sync(count, 3), str)
    with Session.no_autoflush:
        Session.autoflush = True
    scalar: Callable[[Executable], Coroutine[Any, Any, Any]] = Session.scalar
    await scalar(select(User))


# -- Generic as SQLAlchemy's, and open to a session class with more than SQLAlchemy's.


class MySession(AsyncSession):
    tenant: str = ""

    @overload
    async def fetch(self, what: type[User]) -> list[User]: ...
    @overload
    async def fetch(self, what: int, *, deep: bool = False) -> int: ...
    async def fetch(self, what: object, *, deep: bool = False) -> object:
        return what


class MyScopedSession(AsyncScopedSession[MySession]):
    fetch = delegate(MySession.fetch)

    async def users(self) -> list[User]:
        return await self.fetch(User)


async def own_sessions() -> None:
    mine: AsyncScopedSession[MySession] = AsyncScopedSession(async_sessionmaker(class_=MySession))
    assert_type(mine(), MySession)
    assert_type(mine().tenant, str)
    assert_type(mine.registry(), MySession)
    assert_type(AsyncScopedSession(lambda: MySession())(), MySession)

    more = MyScopedSession(async_sessionmaker(class_=MySession))
    assert_type(more(), MySession)
    assert_type(await more.fetch(User), list[User])
    assert_type(await more.fetch(1, deep=True), int)
    assert_type(await more.users(), list[User])
    assert_type(await more.get(User, 1), User | None)
    wants_a_session(more)


# -- A scope is a context manager, and a decorator that keeps the signature.


@scope(commit=True, propagation="join")
async def transfer(source: int, target: int, *, note: str = "") -> bool:
    return source != target


class Service:
    @scope(readonly=True, close_timeout=None)
    async def names(self, limit: int) -> list[str]:
        return [""] * limit


@scope()
async def first(values: Sequence[T]) -> T:
    return values[0]


async def scopes() -> None:
    async with scope(name="transfer", close_timeout=1.5) as opened:
        assert_type(opened, Scope)
        assert_type(opened.parent, Scope | None)
        assert_type(opened.name, str)
        opened.after_commit(print, "committed")
        opened.after_rollback(transfer, 1, 2)
        opened.after_commit(Service().names, 3)
        opened.after_commit(lambda: None)
        opened.rollback_only = True
        assert_type(await opened.release(), None)
    assert_type(await transfer(1, target=2, note="x"), bool)
    assert_type(await Service().names(limit=3), list[str])
    assert_type(await first(["a"]), str)
    assert_type(current_scope(), Scope)
    assert_type(current_scope(None), Scope | None)
    assert_type(is_retryable(OSError()), bool)


class Client:
    async def aclose(self) -> None: ...


clients = ScopedResource(Client, close=Client.aclose)
assert_type(clients(), Client)


# -- Our task group is typed as anyio's.


async def child(id: int, *, task_status: TaskStatus[str]) -> bytes:
    task_status.started(str(id))
    return b""


async def task_groups() -> None:
    async with create_task_group(limit=3, commit=True, name="fan-out") as group:
        assert_type(group, TaskGroup)
        assert_type(group.cancel_scope, CancelScope)
        assert_type(group.create_task(transfer(1, 2)), TaskHandle[bool])
        assert_type(group.start_soon(Service().names, 3, name="names"), TaskHandle[list[str]])
        assert_type(await group.start(child, 1, return_handle=True), TaskHandle[bytes, Any])
