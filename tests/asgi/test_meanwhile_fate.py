"""What becomes of what a task sets on objects while the commit before an answer is under way."""

import asyncio
import gc
import weakref

import pytest
from library import (
    Author,
    Book,
    Loaded,
    Moment,
    author,
    change,
    in_the_flush_or_later,
    names,
    rename,
    request,
)
from service import Service
from sqlalchemy import event
from sqlalchemy.exc import IntegrityError, SAWarning
from sqlalchemy.ext.asyncio import AsyncSession

from entries import Sessions
from scoped_async import current_scope

CHANGED = [*["UPDATE authors"] * 3, "COMMIT", "answer"]


def nothing(loaded: Loaded) -> None:
    pass


class TestWhenItIsWritten:
    @in_the_flush_or_later
    async def test_after_the_answer_with_what_the_body_does(
        self, service: Service, session: Sessions, word: str
    ) -> None:
        moment = Moment(service.engine, word)
        await request(session, moment, change, rename)
        assert moment.statements == [*CHANGED, "UPDATE authors", "COMMIT"]

    @in_the_flush_or_later
    async def test_nothing_when_nothing_was_set(self, service: Service, session: Sessions, word: str) -> None:
        moment = Moment(service.engine, word)
        await request(session, moment, change, nothing)
        assert moment.statements == CHANGED

    async def test_with_a_new_object_that_needs_it(self, service: Service, session: Sessions) -> None:
        """What is added while the flush is under way is flushed after it, with its key to the other."""
        moment = Moment(service.engine, "UPDATE authors")
        await request(session, moment, change, lambda at: at.mary.books.append(Book(title="Letters")))
        assert moment.statements[:6] == [*CHANGED[:3], "INSERT books", *CHANGED[3:]]

    async def test_the_callbacks_do_not_wait_for_it(self, service: Service, session: Sessions) -> None:
        """They belong to the work that was committed."""
        moment = Moment(service.engine, "COMMIT")

        def change_and_watch(loaded: Loaded) -> None:
            change(loaded)
            current_scope().after_commit(moment.statements.append, "callback")

        await request(session, moment, change_and_watch, rename)
        assert moment.statements == [*CHANGED[:4], "callback", "answer", "UPDATE authors", "COMMIT"]

    async def test_a_task_that_sets_all_the_time(self, service: Service, session: Sessions) -> None:
        """It does not keep the commit from its end."""
        moment = Moment(service.engine, "UPDATE authors")
        counted = 0

        async def count(mary: Author) -> None:
            nonlocal counted
            while "answer" not in moment.statements:
                counted += 1
                mary.count = counted
                await asyncio.sleep(0)

        tasks: list[asyncio.Task[None]] = []

        def act(loaded: Loaded) -> None:
            tasks.append(asyncio.create_task(count(loaded.mary)))

        await request(session, moment, change, act)
        await tasks[0]
        async with AsyncSession(service.engine) as other:
            assert 0 < (await author(other, "Mary")).count <= counted


class TestItIsNotWritten:
    @in_the_flush_or_later
    async def test_when_the_commit_fails(self, service: Service, session: Sessions, word: str) -> None:
        def change_and_break(loaded: Loaded) -> None:
            loaded.mary.motto = "changed"
            session.add(Book(title="of nobody", author_id=-1))

        moment = Moment(service.engine, word)
        with pytest.raises(IntegrityError):
            await request(session, moment, change_and_break, rename)
        assert (await names(service.engine))[0] == "Mary"
        assert service.out == 0

    @in_the_flush_or_later
    async def test_when_the_body_fails(self, service: Service, session: Sessions, word: str) -> None:
        def fail(_: Loaded) -> None:
            raise LookupError

        with pytest.raises(LookupError):
            await request(session, Moment(service.engine, word), change, rename, after=fail)
        assert (await names(service.engine))[0] == "Mary"

    @in_the_flush_or_later
    async def test_when_its_object_has_left_the_session(
        self, service: Service, session: Sessions, word: str
    ) -> None:
        def act(loaded: Loaded) -> None:
            loaded.charles.name = "Babbage"
            session.expunge(loaded.charles)

        await request(session, Moment(service.engine, word), change, act)
        assert await names(service.engine) == ["Mary", "Ada", "Grace", "Charles", "Byron"]

    @pytest.mark.parametrize("word", ["DELETE FROM tags", "COMMIT"])
    async def test_when_its_object_is_deleted(self, service: Service, session: Sessions, word: str) -> None:
        moment = Moment(service.engine, word)

        def delete(loaded: Loaded) -> None:
            session().sync_session.delete(loaded.engineer)

        await request(session, moment, delete, lambda loaded: setattr(loaded.engineer, "text", "late"))
        assert moment.statements == ["DELETE FROM", "COMMIT", "answer"]


class TestNothingStays:
    """Once the commit is over, all is as if nobody had listened."""

    async def test_of_the_request(self, service: Service, session: Sessions) -> None:
        """With an object that is kept for long."""
        kept: list[Author] = []
        held: list[weakref.ref[object]] = []

        def act(loaded: Loaded) -> None:
            rename(loaded)
            kept.append(loaded.mary)
            held.append(weakref.ref(session().sync_session))

        await request(session, Moment(service.engine, "UPDATE authors"), change, act)
        gc.collect()
        assert [reference() for reference in held] == [None]

    async def test_of_the_hooks(self, service: Service, session: Sessions) -> None:
        heard: list[object] = []

        def look(loaded: Loaded) -> None:
            dispatch = session().sync_session.dispatch
            heard.extend([*dispatch.after_flush, *dispatch.after_flush_postexec])

        await request(session, Moment(service.engine, "UPDATE authors"), change, rename, after=look)
        assert heard == []

    async def test_sqlalchemy_still_warns_of_what_a_hook_of_the_flush_does(
        self, service: Service, session: Sessions
    ) -> None:
        """It is not what another task does."""
        warned: list[str] = []

        def untag(_: object, __: object, author: Author) -> None:
            if author.tags:
                with pytest.warns(SAWarning, match="not currently supported"):
                    author.tags.clear()
                warned.append(author.name)

        event.listen(Author, "after_update", untag)
        try:
            await request(session, Moment(service.engine, "UPDATE authors"), change, nothing)
        finally:
            event.remove(Author, "after_update", untag)
        assert warned == ["Mary", "Ada", "Grace"]
