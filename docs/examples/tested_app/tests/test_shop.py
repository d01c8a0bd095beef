"""The shop's own tests. Each begins with an empty shop, and none leaves anything behind."""

import pytest
import shop
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from scoped_async.testing import recorder


@pytest.mark.usefixtures("scoped_isolation")
class TestBuying:
    """One unit of work after the other, on one connection that is rolled back."""

    async def test_takes_one_from_the_stock_and_tells_the_customer(self) -> None:
        await shop.stock_up("teapot", 2)
        await shop.buy("Ada", "teapot")
        assert await shop.in_stock("teapot") == 1
        assert await shop.orders_of("Ada") == 1
        assert shop.mails == ["Ada: your teapot is on its way"]

    async def test_of_what_is_sold_out_changes_nothing(self) -> None:
        await shop.stock_up("teapot", 0)
        with pytest.raises(IntegrityError):
            await shop.buy("Ada", "teapot")
        assert await shop.in_stock("teapot") == 0
        assert await shop.orders_of("Ada") == 0
        assert shop.mails == []

    async def test_is_two_statements_in_one_transaction(self, engine: AsyncEngine) -> None:
        await shop.stock_up("teapot", 1)
        with recorder(engine) as recorded:
            await shop.buy("Ada", "teapot")
        buying = recorded.of("buy")
        assert len(buying.statements) == 2, str(recorded)
        assert (buying.commits, len(buying.connections)) == (1, 1)


async def test_the_connection_shows_what_the_shop_has_stored(
    scoped_isolation: tuple[AsyncConnection],
) -> None:
    await shop.stock_up("teapot", 3)
    [connection] = scoped_isolation
    articles = await connection.execute(shop.Article.__table__.select())
    assert [tuple(article) for article in articles] == [("teapot", 3)]


async def test_a_sale_serves_as_many_as_there_are_articles(own_database: AsyncEngine) -> None:
    """Customers at the same moment need a connection each: a database of its own, not a rolled back one."""
    await shop.stock_up("teapot", 3)
    assert await shop.sale([f"customer {number}" for number in range(8)], "teapot") == 3
    assert await shop.in_stock("teapot") == 0
    assert len(shop.mails) == 3
