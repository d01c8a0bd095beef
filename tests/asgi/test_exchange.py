"""What goes to the server passes unchanged; what is wrong with it is the server's to say."""

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from service import Service

from entries import break_the_commit, write
from scoped_async import RollbackOnlyError, current_scope, scope
from scoped_async.asgi import Application, Message, Receive, ScopeMiddleware, Send
from servers import client_of

Exchange = Callable[[Send], Awaitable[None]]
START: Message = {"type": "http.response.start", "status": 200, "headers": []}
BODY: Message = {"type": "http.response.body", "body": b"done"}


def speaking(*messages: Message) -> Application:
    """An application that sends these messages, whatever it is asked."""

    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        if asgi["type"] == "http":
            for message in messages:
                await send(message)

    return app


async def heard(app: Application, asgi: dict[str, Any]) -> list[Message]:
    """What ``app`` sends."""
    messages: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        messages.append(message)

    await app(asgi, receive, send)
    return messages


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "messages",
    [
        [{**START, "status": 204}, {"type": "http.response.body"}],
        [{**START, "status": 304}, {"type": "http.response.body", "body": b"", "more_body": False}],
        [{"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}, START, BODY],
        [START, {"type": "http.response.pathsend", "path": "/some/file"}],
        [
            {**START, "trailers": True},
            BODY,
            {"type": "http.response.trailers", "headers": [], "more_trailers": False},
        ],
        [{"type": "http.response.debug", "info": {"template": "a.html"}}, START, BODY],
        [{"type": "http.response.push", "path": "/a.css", "headers": []}, START, BODY],
        [START, {**BODY, "more_body": True}, {**BODY, "more_body": True}, BODY],
    ],
    ids=lambda value: value if isinstance(value, str) else value[0]["type"] + str(len(value)),
)
async def test_messages_pass_unchanged(method: str, messages: list[Message]) -> None:
    asgi = {"type": "http", "method": method, "path": "/"}
    assert await heard(ScopeMiddleware(speaking(*messages), commit=True), asgi) == messages


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_responses_without_a_body(service: Service, method: str, status: int) -> None:
    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        if asgi["type"] == "http":
            await write(service.Session, "a")
            await send({**START, "status": status})
            await send({"type": "http.response.body"})

    async with client_of(service.watched(ScopeMiddleware(app, commit=True))) as client:
        response = await client.request(method, "/")
    assert (response.status_code, response.content) == (status, b"")
    assert service.stored_at_start == {"a"}


async def test_a_file_that_the_server_sends(service: Service, tmp_path: Path) -> None:
    """``http.response.pathsend``, which granian knows, ends a response: what comes after it is committed."""
    path = tmp_path / "file"
    path.write_text("content")

    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        if asgi["type"] == "http":
            assert "http.response.pathsend" in asgi["extensions"]
            await send(START)
            await send({"type": "http.response.pathsend", "path": str(path)})
            await write(service.Session, "a")

    async with client_of(service.watched(ScopeMiddleware(app, commit=True)), "granian") as client:
        assert (await client.get("/")).text == "content"
        await service.left.wait()
    assert await service.stored() == {"a"}


@pytest.mark.parametrize(
    "messages", [[], [START, START, BODY], [BODY, START]], ids=["nothing", "start twice", "body before start"]
)
async def test_complaints_are_the_servers(
    service: Service, caplog: pytest.LogCaptureFixture, messages: list[Message]
) -> None:
    """What the server says to a malformed exchange, it says behind the middleware, too."""

    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        if asgi["type"] == "http" and scoped:
            await write(service.Session, "a")
        await speaking(*messages)(asgi, receive, send)

    complaints: list[list[str]] = []
    for scoped in (False, True):
        caplog.clear()
        async with client_of(service.watched(ScopeMiddleware(app) if scoped else app)) as client:
            try:
                answer = str((await client.get("/")).status_code)
            except httpx.RemoteProtocolError as error:
                answer = str(error)
            await service.left.wait()
        said = [
            record
            for record in caplog.records
            if record.name == "uvicorn.error" and record.levelno == logging.ERROR
        ]
        complaints.append(
            [answer, *(f"{record.message} {(record.exc_info or [None])[:2]}" for record in said)]
        )
        assert service.out == 0
    assert complaints[0] == complaints[1]
    assert len(complaints[0]) == 2


class TestFailedCommit:
    """An application by hand, which makes of the error that ``send`` raises what it likes."""

    async def served(self, service: Service, app: Application) -> httpx.Response:
        async with client_of(service.watched(ScopeMiddleware(app, commit=True))) as client:
            response = await client.get("/")
            await service.left.wait()
        assert await service.stored() == set()
        return response

    async def test_it_may_answer_anew(self, service: Service) -> None:
        async def app(asgi: Any, receive: Receive, send: Send) -> None:
            if asgi["type"] == "http":
                await break_the_commit(service.Session)
                try:
                    await send(START)
                except Exception:
                    await send({**START, "status": 503})
                    await send({**BODY, "body": b"later"})

        response = await self.served(service, app)
        assert (response.status_code, response.text) == (503, "later")
        assert service.messages == ["start 503", "body"]

    async def test_it_may_not_tell_of_success(self, service: Service) -> None:
        """Neither with the rest of the old response, nor with the start of another."""

        async def app(asgi: Any, receive: Receive, send: Send) -> None:
            if asgi["type"] == "http":
                await break_the_commit(service.Session)
                for message in (START, BODY, START, BODY):
                    try:
                        await send(message)
                    except Exception as error:
                        errors.append(error)

        errors: list[Exception] = []
        assert (await self.served(service, app)).status_code == 500
        assert service.messages == []
        assert len(errors) == 4
        assert set(errors) == set(service.raised)


async def test_a_response_that_is_cut_short(service: Service) -> None:
    """An application may give a response up, as Quart does in a timeout: the rest is rolled back."""

    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        if asgi["type"] == "http":
            await write(service.Session, "a")
            await send(START)
            await send({**BODY, "more_body": True})
            await write(service.Session, "b")

    async with client_of(service.watched(ScopeMiddleware(app, commit=True))) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/")
        await service.left.wait()
    assert await service.stored() == {"a"}


async def test_a_block_around_a_refusal(service: Service) -> None:
    """What a response that does not commit has left in an open block cannot be committed later."""

    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        if asgi["type"] == "http":
            async with scope(propagation="join"):
                await write(service.Session, "a")
                await send({**START, "status": 422})
                await send(BODY)
            with pytest.raises(RollbackOnlyError):
                await service.Session.commit()

    async with client_of(service.watched(ScopeMiddleware(app, commit=True))) as client:
        assert (await client.get("/")).status_code == 422
        await service.left.wait()
    assert (service.raised, await service.stored()) == ([], set())


async def test_a_request_within_a_request_has_its_own_scope(service: Service) -> None:
    """One that is made in the process, without a server, has sessions and an outcome of its own."""

    async def app(asgi: Any, receive: Receive, send: Send) -> None:
        if asgi["type"] == "http":
            names.append(current_scope().name)
            await write(service.Session, asgi["path"])
            if asgi["path"] == "/outer":
                transport = httpx.ASGITransport(scoped)
                async with httpx.AsyncClient(transport=transport, base_url="http://inner") as client:
                    await client.get("/inner")
                assert await service.stored() == {"/inner"}
                await send({**START, "status": 400})
            else:
                await send(START)
            await send(BODY)

    names: list[str] = []
    scoped = ScopeMiddleware(app, commit=True)
    async with client_of(service.watched(scoped)) as client:
        assert (await client.get("/outer")).status_code == 400
    assert names == ["GET /outer", "GET /inner"]
    assert await service.stored() == {"/inner"}
