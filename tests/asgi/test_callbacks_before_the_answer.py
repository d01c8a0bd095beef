"""Callbacks of the commit before the answer: what they leave behind, and what is said when they fail."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from frameworks import Reply
from service import Service
from sqlalchemy import func, select

from entries import Entry, write
from scoped_async import current_scope

Call = Callable[[Service], Awaitable[object]]


async def reads(service: Service) -> None:
    await service.Session.scalar(select(func.count()).select_from(Entry))


async def reads_in_a_task(service: Service) -> None:
    """As ``asyncio.wait_for`` makes one before Python 3.12."""
    await asyncio.create_task(reads(service))


async def writes_and_commits(service: Service) -> None:
    await write(service.Session, "by the callback")
    await service.Session.commit()


class TestTheConnection:
    """Between the start of the answer and the first use after it no connection is held."""

    @pytest.mark.parametrize("call", [reads, reads_in_a_task, writes_and_commits])
    async def test_it_is_back(self, service: Service, call: Call) -> None:
        out: list[int] = []

        async def body() -> AsyncIterator[str]:
            out.append(service.out)
            yield loaded[0].text
            out.append(service.out)

        loaded: list[Entry] = []

        async def handler() -> Reply:
            loaded.append(Entry(text="a"))
            service.Session.add(loaded[0])
            current_scope().after_commit(call, service)
            return Reply(text=body())

        response = await service.get("starlette", handler)
        assert (response.text, service.raised) == ("a", [])
        assert (service.out_at_start, out) == (0, [0, 0])

    async def test_what_it_read_under_a_rollback(self, service: Service) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            current_scope().after_rollback(reads, service)
            return Reply(422)

        await service.get("starlette", handler)
        assert (service.out_at_start, await service.stored()) == (0, set())


class TestWhatACallbackWrites:
    """Without a commit of its own it goes on with what comes after the start."""

    @pytest.mark.parametrize(("fails", "kept"), [(False, {"a", "b"}), (True, {"a"})])
    async def test_its_fate(self, service: Service, fails: bool, kept: set[str]) -> None:
        async def body() -> AsyncIterator[str]:
            yield "piece"
            if fails:
                raise ValueError("a mistake of the body")

        async def handler() -> Reply:
            await write(service.Session, "a")
            current_scope().after_commit(write, service.Session, "b")
            return Reply(text=body())

        async with service.serve("starlette", handler) as client, client.stream("GET", "/"):
            await service.left.wait()
        assert (service.stored_at_start, await service.stored()) == ({"a"}, kept)


class TestOneThatFails:
    async def test_it_is_said_that_the_work_is_committed(self, service: Service) -> None:
        def fail() -> None:
            raise OSError("no mail today")

        async def handler() -> Reply:
            await write(service.Session, "a")
            current_scope().after_commit(fail)
            return Reply()

        assert (await service.get("starlette", handler)).status_code == 500
        assert await service.stored() == {"a"}
        assert "the work itself is committed" in service.raised[0].__notes__[0]

    async def test_of_a_rollback_it_is_not_said(self, service: Service) -> None:
        def fail() -> None:
            raise OSError("no mail today")

        async def handler() -> Reply:
            await write(service.Session, "a")
            current_scope().after_rollback(fail)
            return Reply(422)

        assert (await service.get("starlette", handler)).status_code == 500
        assert not hasattr(service.raised[0], "__notes__")
