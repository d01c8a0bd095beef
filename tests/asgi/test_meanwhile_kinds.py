"""What a task sets on objects while the commit before an answer is under way is stored, of whatever kind."""

import pytest
from library import Author, Book, Desk, Loaded, Moment, Note, author, change, library, request, tagged
from service import Service
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm.attributes import flag_modified


def set_everything(author: Author, loaded: Loaded) -> None:
    author.name += "!"
    author.count = Author.count + 1
    author.data["changed"] = True
    author.plain["deep"]["changed"] = True
    flag_modified(author, "plain")
    author.mentor = loaded.byron
    author.books.append(Book(title="Letters"))
    author.tags = [loaded.engineer]
    author.desk = Desk(text="new")
    author.notes.add(Note(text="new"))


@pytest.mark.parametrize("expires", [False, True], ids=["stays loaded", "expires"])
@pytest.mark.parametrize("word", ["UPDATE authors", "COMMIT"])
@pytest.mark.parametrize("name", ["mary", "ada", "grace", "charles"])
async def test_every_kind(service: Service, name: str, word: str, expires: bool) -> None:
    """Of an object whose statement was sent, of those whose is yet to come, and of one that has none."""
    session = await library(service.engine, expires=expires)
    count = 8 if name == "ada" else 1

    await request(
        session,
        Moment(service.engine, word),
        change,
        lambda loaded: set_everything(getattr(loaded, name), loaded),
    )

    async with AsyncSession(service.engine) as other:
        stored = await author(other, f"{name.title()}!")
        assert stored.count == count
        assert stored.data == {"changed": True}
        assert stored.plain == {"deep": {"changed": True}}
        mentor = await other.scalar(select(Author.name).where(Author.id == stored.mentor_id))
        assert mentor == "Byron"
        assert stored.desk is not None
        assert stored.desk.text == "new"
        assert await other.scalar(select(func.count()).select_from(Desk)) == 4
        assert [book.title for book in stored.books] == ["Letters", "Notes"]
        assert [tag.text for tag in stored.tags] == ["engineer"]
        assert [note.text for note in await other.scalars(stored.notes.select())] == ["new"]
        assert await other.scalar(select(func.count()).select_from(tagged)) == 4


@pytest.mark.parametrize("name", ["ada", "grace", "charles"])
@pytest.mark.parametrize("word", ["UPDATE authors", "INSERT INTO tagged", "COMMIT"])
async def test_a_row_between_two_is_written_once(service: Service, word: str, name: str) -> None:
    """Whether the flush has seen it or not: no key refuses a second one."""
    session = await library(service.engine)

    def change_more(loaded: Loaded) -> None:
        change(loaded)
        loaded.mary.tags.append(loaded.engineer)

    def act(loaded: Loaded) -> None:
        author = getattr(loaded, name)
        author.tags.append(loaded.engineer)

    await request(session, Moment(service.engine, word), change_more, act)
    async with AsyncSession(service.engine) as other:
        rows = (await other.execute(select(tagged))).all()
        assert sorted(rows) == sorted({*rows})
        assert len(rows) == 6


@pytest.mark.parametrize("expires", [False, True], ids=["stays loaded", "expires"])
@pytest.mark.parametrize("word", ["UPDATE authors", "COMMIT"])
@pytest.mark.parametrize("name", ["mary", "ada", "charles"])
async def test_a_relationship_that_is_deleted(service: Service, name: str, word: str, expires: bool) -> None:
    """Not Grace's: where another one was set in the transaction before, SQLAlchemy itself forgets the key."""
    session = await library(service.engine, expires=expires)

    def act(loaded: Loaded) -> None:
        del getattr(loaded, name).desk

    await request(session, Moment(service.engine, word), change, act)
    async with AsyncSession(service.engine) as other:
        assert (await author(other, name.title())).desk is None
        assert await other.scalar(select(func.count()).select_from(Desk)) == 3
