"""AsyncScopedSession: the proxy of the current scope's AsyncSession."""

from collections.abc import Callable, Iterator
from inspect import Signature
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar
from warnings import warn

from sqlalchemy.exc import InvalidRequestError, SAWarning
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker

from ._checks import refusal, usable_unit
from ._database_errors import is_retryable as is_retryable
from ._delegates import end_otherwise, make_delegate
from ._frame import current
from ._names import AVAILABLE, REFUSED, TOO_NEW
from ._proxy import Kind, Proxy
from ._proxy import delegate as delegate
from ._registry import Registry as Registry
from ._running import running_loop
from ._session import HeldSession

if TYPE_CHECKING:
    from typing import Never

    from sqlalchemy.ext.asyncio import AsyncEngine

    class _Refused:
        """To a type checker, a name that nobody can read or write: no proxy is a ``Never``."""

        def __get__(self, instance: Never, owner: Never) -> Never: ...
        def __set__(self, instance: Never, value: Never) -> None: ...

    class _Session(AsyncSession):
        """To a type checker the proxy has all that an AsyncSession has, without the names refused."""

        # They have another type there, which is the point.
        sync_session: _Refused  # pyright: ignore[reportIncompatibleVariableOverride]
        sync_session_class: _Refused  # pyright: ignore[reportIncompatibleVariableOverride]
        dispatch: _Refused  # pyright: ignore[reportIncompatibleVariableOverride]
        bind_mapper: _Refused  # pyright: ignore[reportIncompatibleMethodOverride]
        bind_table: _Refused  # pyright: ignore[reportIncompatibleMethodOverride]
else:

    class _Session:
        """What the proxy has of an AsyncSession at run time."""

        __slots__ = ()


S = TypeVar("S", bound=AsyncSession)
_get_current = current.get


class AsyncScopedSession(Proxy, _Session, Generic[S]):
    """The current scope's `AsyncSession`: made on first use, ended with the scope.

    A drop-in for SQLAlchemy's ``async_scoped_session`` ("Using asyncio scoped session") without its scope
    function. ``session_factory``: an ``async_sessionmaker``, or anything that makes a session when called.
    ``readonly_bind``: the engine of a replica; in a ``readonly`` scope it replaces every bind of the session.
    Every name raises `NoScopeError` without a scope, `ScopeClosedError` in one that has ended,
    `ForeignThreadError` outside its event loop; coroutine methods raise `ConcurrentUseError` while another
    task's is in flight.

    .. versionadded:: 0.1
    """

    _names = AVAILABLE
    _refused = REFUSED | TOO_NEW

    session_factory: "async_sessionmaker[S]"
    """What makes the sessions."""
    registry: "Registry[S]"
    """The session of the current scope: ``has()``, ``set()``, ``clear()``, and a call."""
    _readonly_bind: "AsyncEngine | None"

    # fastapi-pagination, sqlakeyset, polyfactory and others look for just this before they call Session().
    if TYPE_CHECKING:
        ...
    else:
        __class__ = property(lambda self: async_scoped_session)

    def __init__(
        self, session_factory: Callable[..., S], *, readonly_bind: "AsyncEngine | None" = None
    ) -> None:
        if not callable(session_factory):
            raise TypeError(
                "AsyncScopedSession takes what makes sessions, `async_sessionmaker(engine)`, and not "
                f"{session_factory!r}."
            )
        self.__dict__.update(
            session_factory=session_factory,
            registry=Registry(self),
            _readonly_bind=readonly_bind,
            # Else FastAPI's Depends(Session) would ask the client for a query parameter `kw`: a 422.
            __signature__=Signature(),
        )

    def __call__(self, **kw: Any) -> S:
        """The current scope's session itself; ``kw`` goes to the factory when there is none yet.

        What is done on it is outside the guard against concurrent use. Raises SQLAlchemy's
        ``InvalidRequestError`` for ``kw`` when the session is there already.
        """
        held: Any = _get_current().unit.get(self)
        if held is None or held.loop is not running_loop():
            held = _find(self, "", kw)
        elif kw:
            raise InvalidRequestError("Scoped session is already present; no new arguments may be specified.")
        return held.object  # type: ignore[no-any-return]  # what is held under the proxy is its session

    def configure(self, **kw: Any) -> None:
        """Reconfigure the factory; warns when the current scope has its session already."""
        if self.registry.has():
            warn(
                "At least one scoped session is already present. configure() can not affect sessions that "
                "have already been created.",
                SAWarning,
                stacklevel=2,
            )
        self.session_factory.configure(**kw)

    async def remove(self) -> None:
        """Close the current scope's session, if there is one, and forget it; the next use makes another.

        Raises what the close raised, and as every coroutine method does.
        """
        unit = usable_unit(_get_current(), "Session.remove()")
        held = unit.get(self)
        if not isinstance(held, HeldSession):
            return

        async def close() -> None:
            try:
                await held.close()
            finally:
                if unit.get(self) is held:
                    del unit[self]
                    held.let_go()

        await end_otherwise(unit, held, "remove", close)

    @classmethod
    async def close_all(cls) -> None:
        """Close all sessions of the process, as ``AsyncSession.close_all()``."""
        await AsyncSession.close_all()

    if TYPE_CHECKING:  # which has them from AsyncSession
        ...
    else:
        object_session = AsyncSession.object_session
        identity_key = AsyncSession.identity_key

    def __contains__(self, instance: object) -> bool:
        return instance in _find(self, "in").object

    def __iter__(self) -> Iterator[object]:
        return iter(_find(self, "iter").object)

    async def __aenter__(self, *_: object) -> NoReturn:
        raise TypeError(_NO_CONTEXT_MANAGER)

    __aexit__ = __aenter__  # type: ignore[assignment]  # whatever it is called with

    def __repr__(self) -> str:
        return f"AsyncScopedSession({self.session_factory!r})"

    def _target(self, name: str) -> AsyncSession:
        return _find(self, name).object

    @classmethod
    def _delegate(cls, kind: Kind, name: str) -> Any:
        return make_delegate(kind, name, _find)


def _find(proxy: AsyncScopedSession[Any], name: str, kw: dict[str, Any] | None = None) -> HeldSession:
    """What the current scope holds of the proxy, for its ``name``, or for its call with ``kw``.

    No await stands between the look-up and the store, so many tasks that come first at the same moment get
    one session.
    """
    frame = _get_current()
    owner, unit = frame.owner, frame.unit_in_use()
    if owner is None or unit is None or owner.loop is not running_loop():
        raise refusal(frame, f"Session.{name}" if name else "Session()")
    held: Any = unit.get(proxy)
    if held is None:
        if readonly := owner.options.readonly:
            bind = proxy._readonly_bind  # pyright: ignore[reportPrivateUsage]
            kw = {**(kw or {}), **({} if bind is None else {"bind": bind, "binds": {}})}
        session = proxy.session_factory(**kw) if kw else proxy.session_factory()
        held = unit[proxy] = HeldSession(session, owner, readonly)
        if unit.registered is not None:
            held.watch()
    return held  # type: ignore[no-any-return]  # what is held under the proxy is its session


_NO_CONTEXT_MANAGER = (
    "A scoped session is no context manager: the scope closes it. Write `async with scope(commit=True): ...` "
    "for a unit of work, or `async with Session.begin(): ...` for a transaction within one."
)
