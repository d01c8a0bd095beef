"""The five functions of every peer as loops; the application is called in-process."""

from collections.abc import Awaitable, Callable
from types import ModuleType
from typing import Any

from .peers import installed
from .timing import repeat

Loop = Callable[[int], Awaitable[None]]


def requests(application: Any) -> Loop:
    """``n`` requests to an application of Starlette, one after the other, within its lifespan."""

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        assert message.get("status", 200) == 200, message

    async def loop(n: int) -> None:
        async with application.router.lifespan_context(application) as state:
            for _ in range(n):
                asgi = {
                    "type": "http",
                    "method": "GET",
                    "path": "/",
                    "raw_path": b"/",
                    "root_path": "",
                    "query_string": b"",
                    "headers": [],
                    "state": dict(state or {}),
                }
                await application(asgi, receive, send)

    return loop


def _loops(title: str, module: ModuleType) -> dict[str, Loop]:
    names = ("unused", "touched", "select", "insert")
    found = {f"{name}: {title}": repeat(getattr(module, name)) for name in names}
    found[f"request: {title}"] = requests(module.application)
    return found


FUNCTIONS: dict[str, Loop] = {
    name: loop for peer in installed() for name, loop in _loops(peer.title, peer.load()).items()
}
