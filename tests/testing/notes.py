"""What the tests of ``scoped_async.testing`` write: notes, each with the note that it answers, if any."""

from sqlalchemy import ForeignKey, func, select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from scoped_async import AsyncScopedSession, scope


class Base(DeclarativeBase):
    pass


class Note(Base):
    """That there is a note which it answers is checked by the COMMIT."""

    __tablename__ = "note"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    answers: Mapped[int | None] = mapped_column(ForeignKey("note.id", deferrable=True, initially="DEFERRED"))


def sessions_of(engine: AsyncEngine, **options: object) -> AsyncScopedSession[AsyncSession]:
    """A proxy of sessions on ``engine``."""
    return AsyncScopedSession(async_sessionmaker(engine, expire_on_commit=False), **options)  # type: ignore[arg-type]


async def write(session: AsyncScopedSession[AsyncSession], id: int, *, answers: int | None = None) -> None:
    """Commit a note, in a scope of its own."""
    async with scope(commit=True):
        session.add(Note(id=id, answers=answers))


async def read(session: AsyncScopedSession[AsyncSession]) -> list[int]:
    """The notes that a new scope sees."""
    async with scope():
        return list(await session.scalars(select(Note.id).order_by(Note.id)))


async def stored(engine: AsyncEngine) -> int:
    """How many notes the database holds, as another connection sees it."""
    async with engine.connect() as connection:
        count: int = (await connection.execute(select(func.count()).select_from(Note))).scalar_one()
        return count
