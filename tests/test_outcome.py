"""The outcome: nothing is committed unless asked (law 18), and what several resources do (law 22)."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import anyio
import anyio.lowlevel
import pytest
from sqlalchemy import event, insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from scoped_async import (
    AsyncScopedSession,
    ScopedResource,
    scope,
)
from watch import Item, Proxy, Watching, names, one_connection, out


class TestLaw18NothingIsCommittedUnlessAsked(Watching):
    """By `Session.commit()`, `scope.commit()`, or ``commit=True``; every exception rolls back."""

    async def test_a_clean_exit_alone_commits_nothing(self, Session: Proxy) -> None:
        async with scope():
            Session.add(Item(id=1, name="pending"))
            await Session.flush()
            await Session.execute(insert(Item).values(id=2, name="executed"))
        assert await names(Session) == []

    async def test_each_of_the_three_ways_to_ask(self, Session: Proxy) -> None:
        async with scope():
            Session.add(Item(id=1, name="Session.commit()"))
            await Session.commit()
            Session.add(Item(id=2, name="lost"))
            await Session.flush()
        async with scope() as current:
            Session.add(Item(id=3, name="scope.commit()"))
            await current.commit()
        async with scope(commit=True):
            Session.add(Item(id=4, name="commit=True"))
        assert await names(Session) == ["Session.commit()", "scope.commit()", "commit=True"]

    @pytest.mark.parametrize("left", ["return", "break"])
    async def test_every_clean_way_out_of_the_block_commits(self, Session: Proxy, left: str) -> None:
        async def work() -> None:
            while True:
                async with scope(commit=True):
                    Session.add(Item(id=1, name=left))
                    if left == "return":
                        return
                    break

        await work()
        assert await names(Session) == [left]

    @pytest.mark.parametrize(
        "error", [ValueError, KeyboardInterrupt, SystemExit, asyncio.CancelledError, BaseException]
    )
    async def test_every_exception_rolls_back(self, Session: Proxy, error: type[BaseException]) -> None:
        with pytest.raises(error):
            async with scope(commit=True):
                Session.add(Item(id=1, name="lost"))
                await Session.flush()
                raise error
        assert await names(Session) == []

    async def test_a_cancellation_rolls_back(self, Session: Proxy) -> None:
        async def work() -> None:
            async with scope(commit=True):
                Session.add(Item(id=1, name="lost"))
                await Session.flush()
                written.set()
                await asyncio.Event().wait()

        written = asyncio.Event()
        task = asyncio.create_task(work())
        await written.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await names(Session) == []

    async def test_a_deadline_of_anyio_rolls_back(self, Session: Proxy) -> None:
        with anyio.CancelScope() as deadline:
            async with scope(commit=True):
                Session.add(Item(id=1, name="lost"))
                await Session.flush()
                deadline.cancel()
                await anyio.sleep_forever()
        assert await names(Session) == []

    async def test_a_closed_generator_rolls_back(self, Session: Proxy) -> None:
        async def work() -> AsyncGenerator[int, None]:
            async with scope(commit=True):
                Session.add(Item(id=1, name="lost"))
                await Session.flush()
                yield 1

        generator = work()
        assert await anext(generator) == 1
        await generator.aclose()
        assert await names(Session) == []


class TestLaw22SeveralResources(Watching):
    """Commits go in the order of first use; after one that fails the rest are rolled back, with a note."""

    @pytest.fixture
    async def second(self, engine: AsyncEngine, postgres_url: str) -> AsyncIterator[AsyncEngine]:
        """Another engine, to the same tables."""
        async with engine.connect() as connection:
            name: str = await connection.scalar(text("SHOW search_path"))
        second = one_connection(f"{postgres_url}?target_session_attrs=any", name)
        yield second
        await second.dispose()

    @pytest.mark.parametrize("by_hand", [False, True], ids=["exit", "scope.commit()"])
    async def test_in_the_order_of_first_use(
        self, Session: Proxy, engine: AsyncEngine, second: AsyncEngine, by_hand: bool
    ) -> None:
        Other = AsyncScopedSession(async_sessionmaker(second))
        order: list[str] = []
        event.listen(engine.sync_engine, "commit", lambda _: order.append("Session"))
        event.listen(second.sync_engine, "commit", lambda _: order.append("Other"))
        mailbox = ScopedResource(list[str], commit=lambda _: order.append("mailbox"))
        async with scope(commit=not by_hand) as current:
            Other.add(Item(id=1, name="first"))
            mailbox()
            Session.add(Item(id=2, name="second"))
            await Session.flush()
            if by_hand:
                await current.commit()
        assert order == ["Other", "mailbox", "Session"]
        assert await names(Session) == ["first", "second"]

    @pytest.mark.parametrize("by_hand", [False, True], ids=["exit", "scope.commit()"])
    async def test_after_a_failure_the_rest_are_rolled_back(
        self, Session: Proxy, engine: AsyncEngine, second: AsyncEngine, by_hand: bool
    ) -> None:
        Other = AsyncScopedSession(async_sessionmaker(second))
        calls: list[str] = []
        mailbox = ScopedResource(
            list[str], commit=lambda _: calls.append("commit"), rollback=lambda _: calls.append("rollback")
        )
        with pytest.raises(IntegrityError) as failure:
            async with scope(commit=not by_hand) as current:
                Other.add(Item(id=1, name="committed"))
                Session.add_all([Item(id=2, name="twice"), Item(id=3, name="twice")])
                mailbox()
                if by_hand:
                    await current.commit()
        assert calls == ["rollback"]
        assert (out(engine), out(second)) == (0, 0)
        assert await names(Session) == ["committed"]
        [note] = [note for note in failure.value.__notes__ if "committed" in note]
        assert "the session of " in note

    async def test_the_note_tells_them_apart(
        self, Session: Proxy, engine: AsyncEngine, second: AsyncEngine
    ) -> None:
        Other = AsyncScopedSession(async_sessionmaker(second))
        outbox = ScopedResource(dict[str, str], commit=lambda _: None)
        with pytest.raises(IntegrityError) as failure:
            async with scope(commit=True, name="transfer"):
                outbox()
                Other.add(Item(id=1, name="committed"))
                Session.add_all([Item(id=2, name="twice"), Item(id=3, name="twice")])
        [note] = [note for note in failure.value.__notes__ if "committed" in note]
        assert note == (
            "Already committed before this failed: ScopedResource(dict), the session of transfer on "
            f"{second.url!r}."
        )
        assert second.url != engine.url

    async def test_the_note_names_what_went_before_a_hook_wrote_once_more(self, Session: Proxy) -> None:
        """Each once, also what was committed twice before."""

        def send(sent: list[str]) -> None:
            sent.append("sent")
            mailbox()

        def write_twins(_: list[str]) -> None:
            if len(outbox()) == 2:
                Session.add_all([Item(id=1, name="twice"), Item(id=2, name="twice")])

        mailbox = ScopedResource(list[str], commit=write_twins)
        outbox = ScopedResource(list[str], commit=send)
        with pytest.raises(IntegrityError) as failure:
            async with scope(commit=True):
                outbox()
        [note] = [note for note in failure.value.__notes__ if "committed" in note]
        assert note.count("ScopedResource(list)") == 2, "the outbox and the mailbox"

    async def test_nothing_is_said_when_nothing_was_committed(
        self, Session: Proxy, second: AsyncEngine
    ) -> None:
        Other = AsyncScopedSession(async_sessionmaker(second))
        with pytest.raises(IntegrityError) as failure:
            async with scope(commit=True):
                Session.add_all([Item(id=2, name="twice"), Item(id=3, name="twice")])
                Other.add(Item(id=1, name="rolled back"))
        assert "ommitted" not in "".join(getattr(failure.value, "__notes__", []))
        assert await names(Session) == []
