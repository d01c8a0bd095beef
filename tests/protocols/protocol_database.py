"""What the tests of a protocol know of the database."""

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from entries import Sessions, stored


@dataclass
class Database:
    """The sessions of a service, by a pool of 5, and a look at what they leave."""

    engine: AsyncEngine
    Session: Sessions
    observer: AsyncEngine
    """Sees what is committed by connections of its own."""

    @property
    def out(self) -> int:
        """How many connections are out of the pool."""
        pool = self.engine.pool
        assert isinstance(pool, QueuePool)
        return pool.checkedout()

    async def stored(self) -> set[str]:
        """What is committed."""
        return await stored(self.observer)

    async def kill(self) -> None:
        """Terminate the connection of the session, as a server does that goes away."""
        process = await self.Session.scalar(text("SELECT pg_backend_pid()"))
        async with self.observer.connect() as connection:
            await connection.execute(text(f"SELECT pg_terminate_backend({process}, 10000)"))
