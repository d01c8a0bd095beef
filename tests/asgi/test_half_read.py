"""A stream of rows that is half read when the answer starts: it goes on, or it is said why it cannot."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from frameworks import Middlewares, Refused, Reply
from service import Service
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncScalarResult
from sqlalchemy.util import await_only
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware

from entries import Entry, write
from scoped_async import ConcurrentUseError, RollbackOnlyError, ScopeError, current_scope
from scoped_async.asgi import ScopeMiddleware

ROWS = 2000  # more than a driver fetches at once
WHOLE = " ".join(str(number) for number in range(ROWS))


async def forward(request: Any, call_next: Any) -> Any:
    return await call_next(request)


def scope_around(*others: Any, **options: Any) -> Middlewares:
    """``ScopeMiddleware`` around ``others``: they may hold the start back until the body has begun."""
    return [(ScopeMiddleware, {"commit": True, **options}), *others]


READ_AHEAD = (BaseHTTPMiddleware, {"dispatch": forward})
under_what_holds_the_start_back = pytest.mark.parametrize(
    "others", [[], [(GZipMiddleware, {})], [READ_AHEAD]], ids=["nothing", "GZip", "BaseHTTP"]
)


async def opened(service: Service) -> AsyncScalarResult[int]:
    return await service.Session.stream_scalars(text(f"SELECT generate_series(0, {ROWS - 1})"))


async def pieces(rows: AsyncScalarResult[int]) -> AsyncIterator[str]:
    async for row in rows:
        yield f"{row} "


@under_what_holds_the_start_back
class TestItGoesOn:
    """Nothing was written in its transaction, so there is nothing to commit: it ends with the body."""

    @pytest.mark.parametrize("looks_up", [False, True])
    async def test_opened_in_the_body(self, service: Service, others: list[Any], looks_up: bool) -> None:
        async def body() -> AsyncIterator[str]:
            async for piece in pieces(await opened(service)):
                yield piece

        async def handler() -> Reply:
            if looks_up:
                await service.Session.scalar(select(1))
            return Reply(text=body())

        response = await service.get("fastapi", handler, scope_around(*others))
        assert (response.status_code, response.text.rstrip()) == (200, WHOLE)
        assert service.raised == []

    @pytest.mark.parametrize("options", [{}, {"commit": False}, {"readonly": True, "commit": False}])
    async def test_opened_in_the_endpoint(
        self, service: Service, others: list[Any], options: dict[str, Any]
    ) -> None:
        async def handler() -> Reply:
            return Reply(text=pieces(await opened(service)))

        response = await service.get("fastapi", handler, scope_around(*others, **options))
        assert response.text.rstrip() == WHOLE
        assert service.raised == []

    async def test_its_callbacks_come_before_the_answer(self, service: Service, others: list[Any]) -> None:
        """The fate of the work is known: there was none."""
        seen: list[list[str]] = []
        ran: list[str] = []

        async def handler() -> Reply:
            rows = await opened(service)
            current_scope().after_commit(ran.append, "committed")
            return Reply(text=pieces(rows))

        async def look(request: Any, call_next: Any) -> Any:
            response = await call_next(request)
            seen.append(list(ran))
            return response

        outside = (BaseHTTPMiddleware, {"dispatch": look})
        response = await service.get("fastapi", handler, [outside, *scope_around(*others)])
        assert (response.text.rstrip(), seen) == (WHOLE, [["committed"]])

    async def test_what_the_body_writes_is_committed_at_the_end(
        self, service: Service, others: list[Any]
    ) -> None:
        async def body(rows: AsyncScalarResult[int]) -> AsyncIterator[str]:
            async for piece in pieces(rows):
                yield piece
            await write(service.Session, "exported")

        async def handler() -> Reply:
            return Reply(text=body(await opened(service)))

        await service.get("fastapi", handler, scope_around(*others))
        assert (service.stored_at_start, await service.stored()) == (set(), {"exported"})


class TestItCannotGoOn:
    @under_what_holds_the_start_back
    async def test_with_something_to_commit(self, service: Service, others: list[Any]) -> None:
        """The commit would end the stream: no answer that breaks off, but an error that says what to do."""

        async def handler() -> Reply:
            await write(service.Session, "a")
            return Reply(text=pieces(await opened(service)))

        assert (await service.get("fastapi", handler, scope_around(*others))).status_code == 500
        assert await service.stored() == set()
        with pytest.raises(ScopeError, match=r"half read.*Read the stream to its end.*open it in the body"):
            raise service.raised[0]

    async def test_one_that_was_dropped_is_none(self, service: Service) -> None:
        """A loop that was left early has let its stream go: nothing is cut off by the commit."""

        async def handler() -> Reply:
            async for _ in await opened(service):
                break
            await write(service.Session, "a")
            return Reply()

        assert (await service.get("fastapi", handler, scope_around())).status_code == 200
        assert await service.stored() == {"a"}

    async def test_with_something_to_flush(self, service: Service) -> None:
        async def handler() -> Reply:
            rows = await opened(service)
            service.Session.add(Entry(text="a"))
            return Reply(text=pieces(rows))

        assert (await service.get("starlette", handler)).status_code == 500
        assert await service.stored() == set()

    async def test_after_an_error_that_was_swallowed(self, service: Service) -> None:
        """The commit says what is wrong, as without a stream."""

        async def handler() -> Reply:
            await write(service.Session, "a")
            rows = await opened(service)
            with pytest.raises(DBAPIError):
                await service.Session.execute(text("SELECT 1 / 0"))
            return Reply(text=pieces(rows))

        assert (await service.get("starlette", handler)).status_code == 500
        assert [type(error) for error in service.raised] == [RollbackOnlyError]
        assert (service.out, await service.stored()) == (0, set())

    async def test_after_a_commit_it_can(self, service: Service) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            await service.Session.commit()
            return Reply(text=pieces(await opened(service)))

        assert (await service.get("starlette", handler)).text.rstrip() == WHOLE
        assert service.stored_at_start == {"a"}

    async def test_of_a_rolled_back_answer_it_can(self, service: Service) -> None:
        """There is nothing to commit: the work is rolled back where the stream ends, and marked till then."""

        async def body(rows: AsyncScalarResult[int]) -> AsyncIterator[str]:
            async for piece in pieces(rows):
                yield piece
            with pytest.raises(RollbackOnlyError):
                await service.Session.commit()

        async def handler() -> Reply:
            await write(service.Session, "a")
            current_scope().rollback_only = True
            return Reply(text=body(await opened(service)))

        assert (await service.get("starlette", handler)).text.rstrip() == WHOLE
        assert (service.raised, await service.stored()) == ([], set())

    async def test_a_refusal_leaves_it_behind(self, service: Service) -> None:
        """Whoever refuses reads no more rows; the connection is back before the answer starts."""

        async def handler() -> Reply:
            await write(service.Session, "a")
            await anext(await opened(service))
            raise Refused(400)

        assert (await service.get("starlette", handler)).status_code == 400
        assert (service.out_at_start, await service.stored()) == (0, set())

    async def test_at_the_end_it_is_left_behind(self, service: Service) -> None:
        """A background task that has read enough."""

        async def work() -> None:
            await write(service.Session, "b")
            await anext(await opened(service))

        async def handler() -> Reply:
            return Reply(background=work)

        await service.get("starlette", handler)
        assert (service.raised, await service.stored()) == ([], {"b"})


async def test_a_body_that_is_slow_to_begin(service: Service) -> None:
    """Read ahead of the start, it is what the commit waits for; and the error says that it is the body."""
    never = asyncio.Event()

    async def body() -> AsyncIterator[str]:
        yield await service.Session.run_sync(lambda session: await_only(never.wait()) and "never")

    async def handler() -> Reply:
        await write(service.Session, "a")
        return Reply(text=body())

    response = await service.get("fastapi", handler, scope_around(READ_AHEAD, close_timeout=0.1))
    assert response.status_code == 500
    with pytest.raises(ConcurrentUseError, match=r"close_timeout=0.1 s.*it is the body.*add it first"):
        raise service.raised[0]
    assert (service.out, await service.stored()) == (0, set())
