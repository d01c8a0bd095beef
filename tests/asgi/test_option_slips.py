"""Options that are none of those expected are refused where they are given; a name is never in the way."""

from functools import partial
from typing import Any

import pytest
from frameworks import Reply, scoped
from service import Service
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from entries import write
from scoped_async import RollbackOnlyError, current_scope
from scoped_async.asgi import Receive, ScopeMiddleware, Send


async def application(asgi: Any, receive: Receive, send: Send) -> None: ...


async def decide_later(status: int, limit: int = 400) -> bool:
    return status < limit


class Policy:
    async def __call__(self, status: int) -> bool:
        return status < 400


class TestRefused:
    @pytest.mark.parametrize(
        "commit", ["no", 1, None, decide_later, partial(decide_later, limit=500), Policy()]
    )
    def test_a_policy_that_cannot_be_asked(self, commit: Any) -> None:
        """The answer of an async function is always true: it would commit whatever it says."""
        with pytest.raises(TypeError, match="commit is True, False, or a function that is not async"):
            ScopeMiddleware(application, commit=commit)

    @pytest.mark.parametrize("name", ["requests", decide_later])
    def test_a_name_that_cannot_be_asked_for(self, name: Any) -> None:
        with pytest.raises(TypeError, match="name is a function that is not async"):
            ScopeMiddleware(application, name=name)

    def test_a_policy_that_can(self) -> None:
        class Below:
            def __call__(self, status: int) -> bool:
                return status < 400

        ScopeMiddleware(application, commit=Below(), name=lambda asgi: "a request")


class TestNameThatFails:
    """Errors and records have the name in them: its own error must not take their place."""

    @staticmethod
    def tenant(asgi: Any) -> str:
        return str(asgi["tenant"])  # which nobody has set

    async def test_its_error_is_the_name(self, service: Service) -> None:
        async def handler() -> Reply:
            return Reply(text=current_scope().name)

        response = await service.get("starlette", handler, scoped(name=self.tenant))
        assert response.text == "<no name: KeyError('tenant')>"

    async def test_what_fails_is_still_said(self, service: Service) -> None:
        async def handler() -> Reply:
            await write(service.Session, "a")
            with pytest.raises(DBAPIError):
                await service.Session.execute(text("SELECT 1 / 0"))
            return Reply()

        await service.get("starlette", handler, scoped(commit=True, name=self.tenant))
        assert [type(error) for error in service.raised] == [RollbackOnlyError]
