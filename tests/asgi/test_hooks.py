"""The hooks of the commit before the answer."""

import asyncio
from typing import Any

import pytest
from frameworks import Reply, scoped
from service import Service
from sqlalchemy import event

from entries import Entry, Log, write
from scoped_async import ScopedResource, current_scope


class Falsy(Exception):
    """One that looks like nothing, as a collection of errors that is empty does."""

    def __len__(self) -> int:
        return 0


class TestHooksOfTheCommit:
    """They are those of an exit: what they write is committed, a veto makes no error, a failure does."""

    @pytest.mark.parametrize("hook", ["before_flush", "after_flush", "before_commit"])
    async def test_a_veto_is_a_rollback_as_set_by_hand(self, hook: str, service: Service) -> None:
        log = Log()

        def veto(*_: object) -> None:
            current_scope().rollback_only = True

        async def work() -> None:
            await write(service.Session, "in the background")

        async def handler() -> Reply:
            log.watch()
            event.listen(service.Session().sync_session, hook, veto)
            service.Session.add(Entry(text="vetoed"))
            return Reply(background=work)

        response = await service.get("starlette", handler)
        assert (response.status_code, service.raised) == (200, [])
        assert (service.out_at_start, await service.stored()) == (0, set())
        assert log == ["rolled back"]

    async def test_what_one_writes_by_another_session_is_committed(self, service: Service) -> None:
        def audit(*_: object) -> None:
            service.Session.add(Entry(text="audit"))

        resource = ScopedResource(object, commit=audit)

        async def handler() -> Reply:
            resource()
            return Reply()

        response = await service.get("starlette", handler)
        assert (response.status_code, service.stored_at_start) == (200, {"audit"})

    async def test_without_a_commit_it_is_rolled_back_before_the_answer(self, service: Service) -> None:
        done: list[str] = []
        resource = ScopedResource(
            object, commit=lambda _: done.append("commit"), rollback=lambda _: done.append("rollback")
        )

        async def handler() -> Reply:
            resource()
            return Reply()

        response = await service.get("starlette", handler, scoped())
        assert (response.status_code, done) == (200, ["rollback"])

    async def test_a_rollback_that_takes_too_long_is_no_success(self, service: Service) -> None:
        async def wait_for_ever(_: object) -> None:
            await asyncio.Event().wait()

        resource = ScopedResource(object, rollback=wait_for_ever)

        async def handler() -> Reply:
            await write(service.Session, "lost")
            resource()
            return Reply()

        response = await service.get("starlette", handler, scoped(close_timeout=0.05))
        assert response.status_code == 500
        assert any(
            "The rollback took longer than close_timeout=0.05" in str(error) for error in service.raised
        )
        assert (service.out, await service.stored()) == (0, set())

    @pytest.mark.parametrize("error", [LookupError, Falsy])
    async def test_a_failure_is_no_success(self, error: type[Exception], service: Service) -> None:
        def fail(_: Any) -> None:
            raise error

        resource = ScopedResource(object, commit=fail)

        async def handler() -> Reply:
            resource()
            await write(service.Session, "lost")
            return Reply()

        response = await service.get("starlette", handler)
        assert response.status_code == 500
        assert [type(raised) for raised in service.raised] == [error]
        assert (service.out, await service.stored()) == (0, set())
