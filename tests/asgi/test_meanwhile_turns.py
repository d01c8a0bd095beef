"""What is set in several turns while a commit is under way, or of several, is stored as it is at last."""

import asyncio
import gc
from typing import Any

import pytest
from library import (
    Author,
    Book,
    Loaded,
    Moment,
    Tag,
    author,
    change,
    in_the_flush_or_later,
    library,
    names,
    rename,
    request,
    serve,
)
from service import Service
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from entries import Sessions, write
from scoped_async import AsyncScopedSession


class TestItIsSetOnce:
    async def test_again_to_the_same(self, service: Service, session: Sessions) -> None:
        """The second time it is nothing new to the object, and to the database still is."""
        moment, later = Moment(service.engine, "UPDATE authors"), Moment(service.engine, "COMMIT")
        tasks: list[asyncio.Task[None]] = []

        def act(loaded: Loaded) -> None:
            rename(loaded)
            tasks.append(asyncio.create_task(later.take(lambda: rename(loaded))))

        await request(session, moment, change, act)
        assert "Somerville" in await names(service.engine)

    async def test_and_back_again(self, service: Service, session: Sessions) -> None:
        """The flush has written what it was between: Grace's statement was made after that."""
        moment, later = Moment(service.engine, "UPDATE authors"), Moment(service.engine, "COMMIT")
        tasks: list[asyncio.Task[None]] = []

        def act(loaded: Loaded) -> None:
            loaded.grace.motto = "between"
            tasks.append(asyncio.create_task(later.take(lambda: setattr(loaded.grace, "motto", "changed"))))

        await request(session, moment, change, act)
        async with AsyncSession(service.engine) as other:
            assert (await author(other, "Grace")).motto == "changed"

    @in_the_flush_or_later
    async def test_on_an_object_that_nobody_holds(
        self, service: Service, session: Sessions, word: str
    ) -> None:
        def act(loaded: Loaded) -> None:
            rename(loaded)
            vars(loaded).clear()
            gc.collect()

        await request(session, Moment(service.engine, word), change, act)
        assert "Somerville" in await names(service.engine)

    async def test_on_an_object_that_was_added_meanwhile(self, service: Service, session: Sessions) -> None:
        """It is in the next flush, and is set while its own statement is sent."""
        moment = Moment(service.engine, "UPDATE authors")
        later = Moment(service.engine, "INSERT INTO authors")
        tasks: list[asyncio.Task[None]] = []

        def act(loaded: Loaded) -> None:
            new = Author(name="new")
            session.add(new)
            tasks.append(asyncio.create_task(later.take(lambda: setattr(new, "name", "renamed"))))

        await request(session, moment, change, act)
        assert (await names(service.engine))[-1] == "renamed"

    async def test_an_object_that_is_added_in_the_commit(self, service: Service, session: Sessions) -> None:
        await request(
            session, Moment(service.engine, "COMMIT"), change, lambda _: session.add(Author(name="new"))
        )
        assert (await names(service.engine))[-1] == "new"

    @in_the_flush_or_later
    async def test_a_primary_key(self, service: Service, session: Sessions, word: str) -> None:
        def change_one(loaded: Loaded) -> None:
            loaded.mary.motto = "changed"

        await request(
            session, Moment(service.engine, word), change_one, lambda loaded: setattr(loaded.byron, "id", 77)
        )
        assert (await names(service.engine))[-1] == "Byron"
        async with AsyncSession(service.engine) as other:
            assert (await author(other, "Byron")).id == 77

    @in_the_flush_or_later
    async def test_a_collection_that_the_body_goes_on_with(
        self, service: Service, session: Sessions, word: str
    ) -> None:
        books: list[Book] = []

        def act(loaded: Loaded) -> None:
            nonlocal books
            books = loaded.charles.books
            books.append(Book(title="Letters"))

        await request(
            session,
            Moment(service.engine, word),
            change,
            act,
            after=lambda _: books.append(Book(title="Poems")),
        )
        async with AsyncSession(service.engine) as other:
            stored = (await author(other, "Charles")).books
        assert [book.title for book in stored] == ["Letters", "Notes", "Poems"]


@pytest.mark.parametrize("expires", [False, True], ids=["stays loaded", "expires"])
@pytest.mark.parametrize("turn", [1, 2], ids=["of the first", "of the second"])
@in_the_flush_or_later
async def test_several_sessions(service: Service, word: str, turn: int, expires: bool) -> None:
    """What is set while one is committed on the objects of both: the other is over, or yet to come."""
    sessions = (
        await library(service.engine, expires=expires),
        AsyncScopedSession(async_sessionmaker(service.engine, expire_on_commit=expires)),
    )
    moment = Moment(service.engine, word, turn=turn)

    async def app(_: object, __: object, send: Any) -> None:
        authors = [await author(sessions[0], "Mary"), await author(sessions[1], "Ada")]
        for each in authors:
            each.motto = "changed"

        def act() -> None:
            for each in authors:
                each.data = {"changed": True}

        body = asyncio.create_task(moment.take(act))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await body
        await send({"type": "http.response.body"})

    await serve(app)
    async with AsyncSession(service.engine) as other:
        stored = list(await other.scalars(select(Author).where(Author.motto.is_not(None))))
        assert [each.data for each in stored] == [{"changed": True}] * 2


async def test_an_object_that_is_added_to_one_whose_commit_is_over(service: Service) -> None:
    """It is in no flush until the end, so there is nothing to remember of it."""
    session, other = await library(service.engine), service.Session
    first, second = Moment(service.engine, "COMMIT"), Moment(service.engine, "COMMIT", turn=2)

    async def app(_: object, __: object, send: Any) -> None:
        (await author(session, "Mary")).motto = "changed"
        poet, engineer = await session.scalars(select(Tag).order_by(Tag.text.desc()))
        await write(other, "a")
        new = Author(name="New", tags=[poet])
        tasks = [
            asyncio.create_task(first.take(lambda: session.add(new))),
            asyncio.create_task(second.take(lambda: new.tags.append(engineer))),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.gather(*tasks)
        await send({"type": "http.response.body"})

    await serve(app)
    async with AsyncSession(service.engine) as looking:
        assert [tag.text for tag in (await author(looking, "New")).tags] == ["poet", "engineer"]
