"""A TCP relay to PostgreSQL that can go silent: connections stay open, and nothing comes through any more."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from sqlalchemy import URL, make_url


class Relay:
    """Passes bytes on in both directions while it is open."""

    def __init__(self, target: URL) -> None:
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._sides: list[asyncio.StreamWriter] = []
        self._served: list[asyncio.Task[None] | None] = []
        self.url = ""
        """Where the database is, through the relay."""

    def go_silent(self) -> None:
        """Pass nothing on from now, and tell nobody."""
        self._open.clear()

    def speak(self) -> None:
        """Pass on what was held back, and go on."""
        self._open.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._served.append(asyncio.current_task())
        to, back = await asyncio.open_connection(self._target.host, self._target.port)
        self._sides += [writer, back]
        await asyncio.gather(self._pass_on(reader, back), self._pass_on(to, writer))

    async def _pass_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65536):
                await self._open.wait()
                target.write(data)
        target.close()


@asynccontextmanager
async def relay(url: str) -> AsyncIterator[Relay]:
    """A relay on a free port, to the database at ``url``."""
    target = make_url(url)
    relay = Relay(target)
    server = await asyncio.start_server(relay._accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    relay.url = target.set(host="127.0.0.1", port=port).render_as_string(hide_password=False)
    try:
        yield relay
    finally:
        server.close()
        relay.speak()
        for side in relay._sides:
            side.transport.abort()
        await asyncio.gather(*filter(None, relay._served), return_exceptions=True)
        await server.wait_closed()
