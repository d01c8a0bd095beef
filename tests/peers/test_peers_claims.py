"""What the pages say of one library, beside the table."""

# mypy: disable-error-code="import-not-found,import-untyped"

import asyncio
import gc
import sys
from importlib.metadata import version
from typing import Annotated

import httpx
from cells import THEIR_WARNINGS
from context_async_sqlalchemy.fastapi_utils import add_fastapi_http_db_session_middleware
from fastapi import Depends, FastAPI
from libraries import Depended
from libraries_installed import ContextAsyncSqlalchemy, FastapiAsyncSqlalchemy, TaskSession
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from entries import Entry, break_the_commit, scoped_session, stored
from factory import connections
from watch import until

pytestmark = THEIR_WARNINGS


async def test_wait_for_changes_the_session_by_task(engine: AsyncEngine) -> None:
    """On Python 3.11 ``asyncio.wait_for`` makes a task, so what it waits for has another session."""
    library = TaskSession(engine)
    outside = await library.session()
    inside = await asyncio.wait_for(library.session(), 5)
    assert (inside is outside) == (sys.version_info >= (3, 12))


async def test_a_session_by_task_outlives_its_task(engine: AsyncEngine) -> None:
    """The registry has the task as its key, so the garbage collector finds nothing to do."""
    library = TaskSession(engine)

    async def use() -> None:
        await (await library.session()).connection()

    await asyncio.create_task(use())
    gc.collect()
    assert connections(engine) == (1, 1)
    left: list[AsyncSession] = list(library.Session.registry.registry.values())
    for session in left:
        await session.close()


async def test_multi_sessions_commit_after_the_block(engine: AsyncEngine) -> None:
    """fastapi-async-sqlalchemy 0.7: nobody waits for the commits. 0.8 makes them where the block ends."""
    await scoped_session(engine)
    library = FastapiAsyncSqlalchemy(engine)

    async def write() -> None:
        await (await library.session()).execute(insert(Entry).values(text="a"))

    async with library.db(multi_sessions=True, commit_on_exit=True):
        await asyncio.gather(asyncio.create_task(write()))
    assert (connections(engine)[1] == 1) == (version("fastapi-async-sqlalchemy") < "0.8")

    async def is_stored() -> bool:
        return await stored(engine) == {"a"}

    await until(is_stored)


async def test_the_middleware_for_fastapi_commits_before_the_answer(engine: AsyncEngine) -> None:
    """context-async-sqlalchemy has a second middleware, which stands on BaseHTTPMiddleware."""
    await scoped_session(engine)
    library, app = ContextAsyncSqlalchemy(engine), FastAPI()
    add_fastapi_http_db_session_middleware(app)

    @app.get("/")
    async def endpoint() -> None:
        await break_the_commit(await library.session())

    assert await status_of(app) == 500


async def test_a_dependency_of_the_function_commits_before_the_answer(engine: AsyncEngine) -> None:
    """FastAPI: ``Depends(get_session, scope="function")``."""
    await scoped_session(engine)
    get_session, app = Depended(engine).get_session, FastAPI()

    @app.get("/")
    async def endpoint(session: Annotated[AsyncSession, Depends(get_session, scope="function")]) -> None:
        await break_the_commit(session)

    assert await status_of(app) == 500


async def status_of(app: FastAPI) -> int:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return (await client.get("/")).status_code
