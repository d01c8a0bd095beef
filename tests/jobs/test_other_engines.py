"""Engines that need no module of ours: ``@scope(commit=True)`` on the coroutine function is all."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import procrastinate
import pytest
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from arq import create_pool, func
from arq.connections import RedisSettings
from arq.typing import WorkerCoroutine
from arq.worker import Worker
from job_ledger import EFFECT, Ledger
from redis_server import redis_server
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from entries import break_the_commit, write
from scoped_async import scope

Job = Callable[[], Awaitable[str]]


@pytest.fixture(params=["success", "the commit fails"])
def job(request: pytest.FixtureRequest, ledger: Ledger) -> Job:
    """The job as an application writes it."""

    @scope(commit=True)
    async def transfer() -> str:
        await write(ledger.session, "effect")
        if request.param == "the commit fails":
            await break_the_commit(ledger.session)
        return "done"

    return transfer


@pytest.fixture
def error(request: pytest.FixtureRequest, job: Job) -> type[Exception] | None:
    """What the job has to fail with."""
    return None if request.node.callspec.params["job"] == "success" else IntegrityError


@pytest.fixture(scope="module")
def redis() -> Iterator[int]:
    with redis_server() as port:
        yield port


async def test_procrastinate(ledger: Ledger, name: str, job: Job, error: type[Exception] | None) -> None:
    """The job is ``succeeded`` once it is committed, and ``failed`` when its commit fails."""
    url = ledger.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connector = procrastinate.PsycopgConnector(
        conninfo=url, kwargs={"options": f"-c search_path={name}"}, min_size=1, max_size=3
    )
    app = procrastinate.App(connector=connector)
    task = app.task(name="transfer")(job)
    async with ledger.engine.begin() as connection:
        await connection.execute(text(f"CREATE SCHEMA {name}"))
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        await task.defer_async()
        await app.run_worker_async(wait=False, install_signal_handlers=False, listen_notify=False)
        (status,) = [done.status for done in await app.job_manager.list_jobs_async()]
    async with ledger.engine.begin() as connection:
        await connection.execute(text(f"DROP SCHEMA {name} CASCADE"))
    assert status == ("failed" if error else "succeeded")
    assert await ledger.effects() == (set() if error else EFFECT)


@pytest.mark.filterwarnings("ignore:Call to deprecated close")  # arq's own, of its Redis client
async def test_arq(ledger: Ledger, redis: int, name: str, job: Job, error: type[Exception] | None) -> None:
    """Its result is what the function returned, or what the commit raised."""

    async def transfer(context: dict[Any, Any]) -> str:
        return await job()

    settings = RedisSettings(host="127.0.0.1", port=redis)
    pool = await create_pool(settings, default_queue_name=name)
    sent = await pool.enqueue_job("transfer")
    assert sent is not None
    worker = Worker(
        [func(cast(WorkerCoroutine, transfer), name="transfer")],
        queue_name=name,
        redis_settings=settings,
        burst=True,
        handle_signals=False,
        poll_delay=0.05,
    )
    await worker.main()
    await worker.close()
    result = await sent.result_info()
    await pool.aclose()
    assert result is not None
    assert result.success is (error is None)
    assert await ledger.effects() == (set() if error else EFFECT)


async def test_apscheduler(ledger: Ledger, job: Job, error: type[Exception] | None) -> None:
    """What APScheduler tells its listeners is told after the commit."""
    done = asyncio.get_running_loop().create_future()
    scheduler = AsyncIOScheduler(timezone="UTC")
    scheduler.add_listener(done.set_result, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
    scheduler.add_job(job)
    scheduler.start()
    event: JobExecutionEvent = await done
    scheduler.shutdown()
    assert type(event.exception) is (error or type(None))
    assert await ledger.effects() == (set() if error else EFFECT)
