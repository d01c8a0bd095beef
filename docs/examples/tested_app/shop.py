"""A shop: orders take goods from the stock, in one unit of work each.

It knows nothing of tests: a proxy whose engine is configured at the start, and functions that open scopes.
"""

from sqlalchemy import CheckConstraint, ForeignKey, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from scoped_async import AsyncScopedSession, create_task_group, current_scope, scope

Session: AsyncScopedSession[AsyncSession] = AsyncScopedSession(async_sessionmaker(expire_on_commit=False))
mails: list[str] = []
"""What was sent; stands for a mail server."""


class Base(DeclarativeBase):
    pass


class Article(Base):
    __tablename__ = "article"
    __table_args__ = (CheckConstraint("stock >= 0", name="enough"),)

    name: Mapped[str] = mapped_column(primary_key=True)
    stock: Mapped[int]


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    article: Mapped[str] = mapped_column(ForeignKey("article.name"))
    customer: Mapped[str]


@scope(commit=True)
async def stock_up(name: str, amount: int) -> None:
    """Put an article on the shelf."""
    article = await Session.get(Article, name)
    if article is None:
        Session.add(Article(name=name, stock=amount))
    else:
        article.stock += amount


@scope(commit=True)
async def buy(customer: str, name: str) -> int:
    """Take one article from the stock and note the order; the customer hears of it once it is committed."""
    await Session.execute(update(Article).where(Article.name == name).values(stock=Article.stock - 1))
    order = Order(article=name, customer=customer)
    Session.add(order)
    await Session.flush()
    current_scope().after_commit(mails.append, f"{customer}: your {name} is on its way")
    return order.id


@scope(readonly=True)
async def in_stock(name: str) -> int:
    """How many are left."""
    return await Session.scalar(select(Article.stock).where(Article.name == name)) or 0


@scope(readonly=True)
async def orders_of(customer: str) -> int:
    """How many orders the customer has placed."""
    return await Session.scalar(select(func.count()).where(Order.customer == customer)) or 0


async def sale(customers: list[str], name: str) -> int:
    """Let all of them buy at the same moment, each in a scope of their own; returns how many got one."""
    served: list[str] = []

    async def one(customer: str) -> None:
        try:
            await buy(customer, name)
        except IntegrityError:  # sold out
            return
        served.append(customer)

    async with create_task_group(limit=4) as group:
        for customer in customers:
            group.create_task(one(customer))
    return len(served)
