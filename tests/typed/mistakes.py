"""Wrong code: `test_typing` holds that the type checkers refuse each line marked so, and no other."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from usage import MyScopedSession, MySession, Session, User, child

from scoped_async import AsyncScopedSession, create_task_group, current_scope, scope


def unknown_names() -> None:
    Session.exec(select(User))  # wrong
    Session.autoflsh = False  # wrong
    print(Session.query)  # wrong
    print(Session.rollback_only)  # wrong


# A refused name has the type Never, and what comes after it is not checked: one function each.


def refused_session() -> None:
    print(Session.sync_session)  # wrong


def refused_session_class() -> None:
    print(Session.sync_session_class)  # wrong


def refused_events() -> None:
    print(Session.dispatch)  # wrong


def refused_mapper(bind: Any) -> None:
    Session.bind_mapper(User, bind)  # wrong


def refused_table(bind: Any) -> None:
    Session.bind_table(User.__table__, bind)  # wrong


def refused_assignment(value: Any) -> None:
    Session.sync_session = value  # wrong


def refused_in_a_subclass(mine: MyScopedSession) -> None:
    print(mine.sync_session)  # wrong


async def signatures() -> None:
    await Session.execute()  # wrong
    await Session.get(User)  # wrong
    await Session.scalar("SELECT 1")  # wrong
    wrong: tuple[str, str] = (await Session.execute(select(User.id, User.name))).tuples().one()  # wrong
    print(wrong)
    Session.dirty = ()  # wrong
    Session.execute(select(User)).tuples()  # wrong
    async with Session.begin(nested=True):  # wrong
        pass


async def own_session_classes(mine: AsyncScopedSession[MySession], more: MyScopedSession) -> None:
    mine.fetch(User)  # wrong
    await more.fetch("name")  # wrong
    print(Session().tenant)  # wrong
    not_mine: AsyncScopedSession[MySession] = Session  # wrong
    no_session: MySession = mine  # wrong
    print(not_mine, no_session)
    mine.registry.set(AsyncSession())  # wrong
    AsyncScopedSession(async_sessionmaker(), MySession)  # wrong
    AsyncScopedSession(lambda: 1)  # wrong


@scope()
async def decorated(number: int) -> str:
    return str(number)


@scope()  # wrong
def not_async() -> None: ...


async def scopes() -> None:
    await decorated("1")  # wrong
    number: int = await decorated(1)  # wrong
    print(number)
    scope(comit=True)  # wrong
    scope(propagation="required")  # wrong
    scope(close_timeout="10")  # wrong
    scope(True)  # wrong
    with scope():  # wrong
        pass
    current_scope().after_commit(decorated)  # wrong
    current_scope().after_commit(decorated, "1")  # wrong
    current_scope().after_commit(decorated, 1, 2)  # wrong
    current_scope().after_rollback(decorated, "1")  # wrong
    current_scope().after_commit(decorated(1))  # wrong
    current_scope().name = "other"  # wrong
    current_scope().commit_all()  # wrong


async def task_groups() -> None:
    async with create_task_group(propagation="join"):  # wrong
        pass
    async with create_task_group() as group:
        group.start_soon(decorated, "1")  # wrong
        group.create_task(decorated)  # wrong
        await group.start(decorated(1))  # wrong
        wrong: str = await group.start(child, 1, return_handle=True)  # wrong
        print(wrong)
