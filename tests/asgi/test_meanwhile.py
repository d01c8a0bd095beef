"""What a body sets on objects while the commit before its answer is under way is stored.

Under a BaseHTTPMiddleware inside of ours a body begins by then: in a task of its own, at the same time.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from frameworks import Middlewares, Reply
from library import Author, Book, Moment, author, library
from service import Service
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.middleware.base import BaseHTTPMiddleware

from scoped_async.asgi import ScopeMiddleware


async def forward(request: Any, call_next: Any) -> Any:
    return await call_next(request)


SCOPE = (ScopeMiddleware, {"commit": True})
INSIDE = (BaseHTTPMiddleware, {"dispatch": forward})
ORDERS: list[Middlewares] = [[SCOPE, INSIDE], [SCOPE, INSIDE, INSIDE], [INSIDE, SCOPE, INSIDE]]


@pytest.mark.parametrize("order", ORDERS, ids=["one deep", "two deep", "around, too"])
@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
@pytest.mark.parametrize("expires", [False, True], ids=["stays loaded", "expires"])
@pytest.mark.parametrize("word", ["INSERT INTO authors", "UPDATE authors", "COMMIT"])
class TestWhatABodySets:
    async def test_it_is_stored(
        self, service: Service, order: Middlewares, framework: str, word: str, expires: bool
    ) -> None:
        session = await library(service.engine, expires=expires)
        moment = Moment(service.engine, word)
        is_new = word.startswith("INSERT")

        def act(ada: Author) -> None:
            ada.name = "Lovelace"
            ada.books.append(Book(title="Letters"))
            ada.data["changed"] = True

        async def body(ada: Author) -> AsyncIterator[str]:
            await moment.take(lambda: act(ada))
            yield "piece"

        async def handler() -> Reply:
            ada = Author(books=[], data={}) if is_new else await author(session, "Byron")
            session.add(ada)
            ada.name, ada.motto = "Ada", "set by the endpoint"
            return Reply(text=body(ada))

        response = await service.get(framework, handler, order)
        assert (response.text, service.raised) == ("piece", [])
        async with AsyncSession(service.engine) as other:
            stored = (await other.scalars(select(Author).where(Author.motto == "set by the endpoint"))).one()
            assert (stored.name, stored.data) == ("Lovelace", {"changed": True})
            assert [book.title for book in stored.books] == ["Letters"]
