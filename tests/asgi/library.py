"""Tables with every kind of attribute, and the moment of a commit at which a body sets one."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import JSON, Column, Connection, ForeignKey, Table, event, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.ext.mutable import MutableDict
from sqlalchemy.orm import DeclarativeBase, Mapped, WriteOnlyMapped, mapped_column, relationship
from sqlalchemy.util import await_only

from entries import Sessions
from scoped_async import AsyncScopedSession
from scoped_async.asgi import ScopeMiddleware

Json = dict[str, Any]


class Base(DeclarativeBase):
    pass


tagged = Table(
    "tagged",
    Base.metadata,
    Column("author_id", ForeignKey("authors.id")),  # and no key, which would refuse what is written twice
    Column("tag_id", ForeignKey("tags.id")),
)


class Desk(Base):
    __tablename__ = "desks"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Tag(Base):
    __tablename__ = "tags"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


class Book(Base):
    __tablename__ = "books"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("authors.id"))


class Note(Base):
    __tablename__ = "notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    author_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id"))


class Author(Base):
    __tablename__ = "authors"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    motto: Mapped[str | None]
    count: Mapped[int] = mapped_column(default=0)
    data: Mapped[Json] = mapped_column(MutableDict.as_mutable(JSON), default=dict)
    plain: Mapped[Json] = mapped_column(JSON, default=lambda: {"deep": {}})
    mentor_id: Mapped[int | None] = mapped_column(ForeignKey("authors.id"))
    mentor: Mapped["Author | None"] = relationship(remote_side=[id], back_populates="pupils")
    pupils: Mapped[list["Author"]] = relationship(back_populates="mentor")
    desk_id: Mapped[int | None] = mapped_column(ForeignKey("desks.id"))
    desk: Mapped["Desk | None"] = relationship(
        cascade="all, delete-orphan", single_parent=True, lazy="selectin"
    )
    books: Mapped[list[Book]] = relationship(lazy="selectin", order_by=Book.title)
    tags: Mapped[list[Tag]] = relationship(secondary=tagged, lazy="selectin")
    notes: WriteOnlyMapped[Note] = relationship()


async def library(engine: AsyncEngine, *, expires: bool = False) -> Sessions:
    """The tables, with five authors in this order, the last without a book and a tag, and one more tag."""
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.run_sync(Base.metadata.create_all)
    async with AsyncSession(engine) as session, session.begin():
        poet = Tag(text="poet")
        session.add_all(
            Author(name=name, books=[Book(title="Notes")], tags=[poet], desk=Desk(text="old"))
            for name in ("Mary", "Ada", "Grace", "Charles")
        )
        session.add_all([Author(name="Byron"), Tag(text="engineer")])
    return AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=expires))


in_the_flush_or_later = pytest.mark.parametrize("word", ["UPDATE authors", "COMMIT"])


async def author(session: Sessions | AsyncSession, name: str) -> Author:
    return (await session.execute(select(Author).where(Author.name == name))).scalar_one()


async def names(engine: AsyncEngine) -> list[str]:
    """Those of the authors that are stored."""
    async with AsyncSession(engine) as session:
        return list(await session.scalars(select(Author.name).order_by(Author.id)))


@dataclass
class Moment:
    """Holds a commit at the first statement that begins with ``word`` until somebody has had a turn.

    Or at a later one, of which it is the number.
    """

    engine: AsyncEngine
    word: str
    turn: int = 1
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    over: asyncio.Event = field(default_factory=asyncio.Event)
    statements: list[str] = field(default_factory=list)
    """The statements that write, and the COMMITs, each by its first two words."""

    def __post_init__(self) -> None:
        event.listen(self.engine.sync_engine, "before_cursor_execute", self._statement)
        event.listen(self.engine.sync_engine, "commit", self._commit)

    def _statement(self, _: Connection, __: Any, statement: str, *___: Any) -> None:
        if not statement.startswith("SELECT"):
            self._hold(statement)

    def _commit(self, _: Connection) -> None:
        self._hold("COMMIT")

    def _hold(self, statement: str) -> None:
        self.statements.append(" ".join(statement.replace("INTO ", "").split()[:2]))
        self.turn -= statement.startswith(self.word)
        if self.turn == 0 and not self.begun.is_set():
            self.begun.set()
            await_only(self.over.wait())

    async def take(self, act: Callable[[], object]) -> None:
        """Do ``act`` while the commit is held."""
        await self.begun.wait()
        try:
            act()
        finally:
            self.over.set()


class Loaded:
    """What the endpoint of the request has loaded."""

    def __init__(self, authors: Iterable[Author], engineer: Tag) -> None:
        self.mary, self.ada, self.grace, self.charles, self.byron = authors
        self.engineer = engineer


Act = Callable[[Loaded], object]


async def request(
    session: Sessions, moment: Moment, change: Act, act: Act, after: Act = lambda _: None
) -> None:
    """Do ``change`` before an answer, ``act`` in another task while that is committed, then ``after``."""

    async def app(_: object, __: object, send: Any) -> None:
        authors = await session.scalars(select(Author).order_by(Author.id))
        engineer = await session.scalar(select(Tag).where(Tag.text == "engineer"))
        assert engineer is not None
        loaded = Loaded(authors, engineer)
        change(loaded)
        body = asyncio.create_task(moment.take(lambda: act(loaded)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        moment.statements.append("answer")
        await body
        after(loaded)
        await send({"type": "http.response.body"})

    await serve(app)


async def serve(app: Any) -> None:
    """One request to ``app`` behind the middleware, whose answer nobody reads."""

    async def ignore(*_: object) -> Any:
        pass

    await ScopeMiddleware(app, commit=True)({"type": "http", "method": "GET", "path": "/"}, ignore, ignore)


def change(loaded: Loaded) -> None:
    """Three statements, of which the second is made before the first is sent. The others are loaded only."""
    loaded.mary.motto = "changed"
    loaded.ada.count += 7
    loaded.grace.motto, loaded.grace.mentor = "changed", loaded.byron


def rename(loaded: Loaded) -> None:
    """What another task does in most tests."""
    loaded.mary.name = "Somerville"
