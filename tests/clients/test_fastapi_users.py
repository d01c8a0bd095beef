"""fastapi-users: its database adapter takes the proxy once. It does not allow SQLAlchemy 2.1 yet."""

import uuid

import pytest
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase

from scoped_async import AsyncScopedSession, NoScopeError, scope


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTableUUID, Base):
    pass


Users = SQLAlchemyUserDatabase[User, uuid.UUID]


@pytest.fixture
async def users(sqlite_engine: AsyncEngine) -> Users:
    async with sqlite_engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    return SQLAlchemyUserDatabase(AsyncScopedSession(async_sessionmaker(sqlite_engine)), User)


ADA = {"email": "ada@example.org", "hashed_password": "..."}


async def test_one_adapter_serves_every_scope(users: Users) -> None:
    async with scope():
        ada = await users.create(ADA)
        found = await users.get_by_email("ADA@example.org")
        assert found is ada
    async with scope():
        changed = await users.get_by_email("ada@example.org")
        assert changed is not None
        assert changed is not ada
        await users.update(changed, {"is_verified": True})
        identity = changed.id
    async with scope():
        again = await users.get(identity)
        assert again is not None
        assert again.is_verified
        await users.delete(again)
        assert await users.get(identity) is None


async def test_without_a_scope(users: Users) -> None:
    with pytest.raises(NoScopeError):
        await users.get(uuid.uuid4())
