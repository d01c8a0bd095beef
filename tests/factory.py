"""A factory of sessions that remembers them, and how many connections a pool has opened and lent."""

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.pool import QueuePool


class Factory:
    """Makes sessions, and remembers them."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self.made: list[AsyncSession] = []

    def __call__(self) -> AsyncSession:
        self.made.append(AsyncSession(self.engine, expire_on_commit=False))
        return self.made[-1]

    def configure(self, **_: object) -> None:
        """What an async_sessionmaker has too."""


def connections(engine: AsyncEngine) -> tuple[int, int]:
    """How many the pool has opened so far, and how many of them are checked out."""
    pool = engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedin() + pool.checkedout(), pool.checkedout()
