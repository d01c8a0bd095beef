"""Law 3, every boundary once: what SQLAlchemy, Starlette and the test plugins put in between."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import event, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.util import await_only
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from scoped_async import AsyncScopedSession, Scope, current_scope, scope

PID = text("SELECT pg_backend_pid()")
LOOP_SCOPE = "--override-ini=asyncio_default_fixture_loop_scope=function"


class Base(DeclarativeBase):
    """The tables of this module."""


class Note(Base):
    __tablename__ = "boundary_note"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


class Listened(Session):
    """A session class of our own, so that its listeners hear of no other."""


@pytest.fixture
async def Notes(engine: AsyncEngine) -> AsyncIterator[AsyncScopedSession[AsyncSession]]:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield AsyncScopedSession(async_sessionmaker(engine, sync_session_class=Listened, expire_on_commit=False))
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)


async def ids(Notes: AsyncScopedSession[AsyncSession]) -> list[int]:
    async with scope():
        return list(await Notes.scalars(select(Note.id).order_by(Note.id)))


class TestSQLAlchemy:
    """Its greenlets and its event hooks see the scope whose session they work on, in the exit too."""

    async def test_run_sync(self, Notes: AsyncScopedSession[AsyncSession]) -> None:
        async with scope() as opened:
            session, pid = Notes(), await Notes.scalar(PID)

            def inside(sync: Session) -> tuple[Scope, AsyncSession, Any]:
                assert sync is Notes().sync_session
                return current_scope(), Notes(), await_only(Notes.scalar(PID))

            assert await Notes.run_sync(inside) == (opened, session, pid)

    @pytest.mark.parametrize("name", ["before_flush", "after_flush", "before_commit", "after_begin"])
    @pytest.mark.parametrize("in_the_exit", [False, True])
    async def test_event_hooks(
        self, name: str, in_the_exit: bool, Notes: AsyncScopedSession[AsyncSession]
    ) -> None:
        def hook(*_: object) -> None:
            seen.append((current_scope(), Notes()))

        seen: list[tuple[Scope, AsyncSession]] = []
        event.listen(Listened, name, hook)
        try:
            async with scope(commit=in_the_exit) as opened:
                session = Notes()
                Notes.add(Note(id=1))
                if not in_the_exit:
                    await Notes.commit()
        finally:
            event.remove(Listened, name, hook)
        assert seen == [(opened, session)]
        assert await ids(Notes) == [1]

    @pytest.mark.parametrize("in_the_exit", [False, True])
    async def test_a_hook_may_use_the_session_within_its_flush(
        self, in_the_exit: bool, Notes: AsyncScopedSession[AsyncSession]
    ) -> None:
        def hook(session: Session, *_: object) -> None:
            pids.append(await_only(Notes.scalar(PID)))
            Notes.add(Note(id=2))

        pids: list[Any] = []
        event.listen(Listened, "before_flush", hook)
        try:
            async with scope(commit=True):
                pids.append(await Notes.scalar(PID))
                Notes.add(Note(id=1))
                if not in_the_exit:
                    await Notes.flush()
        finally:
            event.remove(Listened, "before_flush", hook)
        assert len(pids) == 2
        assert len(set(pids)) == 1
        assert await ids(Notes) == [1, 2]

    async def test_a_hook_in_the_exit_sees_its_scope_also_when_that_is_left_in_another_context(
        self, Notes: AsyncScopedSession[AsyncSession]
    ) -> None:
        def hook(*_: object) -> None:
            seen.append(current_scope())

        async def enter() -> None:
            await opened.__aenter__()
            Notes.add(Note(id=1))

        seen: list[Scope] = []
        opened = scope(commit=True)
        event.listen(Listened, "before_flush", hook)
        try:
            async with scope():
                await asyncio.create_task(enter())
                await opened.__aexit__(None, None, None)
        finally:
            event.remove(Listened, "before_flush", hook)
        assert seen == [opened]
        assert await ids(Notes) == [1]


class TestStarlette:
    """A scope opened in or around BaseHTTPMiddleware is the one that the endpoint and its tasks see."""

    @pytest.mark.parametrize("layers", [1, 3])
    async def test_base_http_middleware(self, layers: int, Notes: AsyncScopedSession[AsyncSession]) -> None:
        async def open_scope(
            request: Request, call_next: Callable[[Request], Awaitable[Response]]
        ) -> Response:
            async with scope(name=request.url.path):
                pid = await Notes.scalar(PID)
                response = await call_next(request)
                response.headers["same"] = str(pid == await Notes.scalar(PID))
                return response

        async def pass_on(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            before = current_scope()
            response = await call_next(request)
            assert current_scope() is before
            return response

        async def endpoint(request: Request) -> Response:
            pids = {await Notes.scalar(PID), *await asyncio.gather(Notes.scalar(PID))}
            return JSONResponse([current_scope().name, len(pids)])

        dispatches = [open_scope] + [pass_on] * (layers - 1)
        app = Starlette(
            routes=[Route("/{name}", endpoint)],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=dispatch) for dispatch in dispatches],
        )
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answers = await asyncio.gather(*(client.get(f"/{number}") for number in range(5)))
        assert [answer.json() for answer in answers] == [[f"/{number}", 1] for number in range(5)]
        assert {answer.headers["same"] for answer in answers} == {"True"}


FIXTURE = """
import os
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from scoped_async import AsyncScopedSession, current_scope, scope

pytestmark = pytest.mark.{plugin}
Session = AsyncScopedSession(async_sessionmaker())
opened_by_fixtures = []

@pytest.fixture
async def engine({backend}):
    engine = create_async_engine(os.environ["URL"])
    Session.configure(bind=engine)
    yield engine
    assert engine.pool.checkedout() == 0
    assert opened_by_fixtures.pop().closed
    await engine.dispose()

@pytest.fixture
async def opened(engine):
    async with scope(name="of the fixture") as opened:
        opened_by_fixtures.append(opened)
        await Session.execute(text("SELECT 1"))
        yield opened

@pytest.mark.parametrize("time", [1, 2])
async def test_sees_the_scope_of_its_fixture(opened, time):
    assert current_scope() is opened
    assert await Session.scalar(text("SELECT 1")) == 1

async def test_may_open_its_own(opened):
    async with scope() as own:
        assert own.parent is opened
        await Session.execute(text("SELECT 1"))

async def test_needs_none(opened):
    pass
"""


class TestFixtures:
    """A fixture that opens a scope and yields: its test sees the scope, and it is left after the test."""

    @pytest.mark.parametrize(
        ("plugin", "backend", "options"),
        [
            ("asyncio", "", ["-p", "no:anyio", "-o", "asyncio_mode=auto", LOOP_SCOPE]),
            ("anyio", "anyio_backend", ["-p", "no:asyncio"]),
        ],
    )
    def test_of_a_plugin(
        self, plugin: str, backend: str, options: list[str], tmp_path: Path, postgres_url: str
    ) -> None:
        text = FIXTURE.replace("{plugin}", plugin).replace("{backend}", backend)
        if plugin == "anyio":
            text += "\n@pytest.fixture\ndef anyio_backend():\n    return 'asyncio'\n"
        path = tmp_path / f"test_{plugin}_fixture.py"
        path.write_text(text)
        command = [sys.executable, "-m", "pytest", "-q", "-W", "error", *options, str(path)]
        environment = {"URL": postgres_url, "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert "4 passed" in done.stdout, done.stdout + done.stderr
