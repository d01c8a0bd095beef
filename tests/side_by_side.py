"""One step at a time, in the package and in the model of ``unit_model``, and whether the two agree."""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any, cast

from sqlalchemy import delete, insert, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine

from actors import Actor
from entries import Entry, Sessions, scoped_session, stored
from scoped_async import ScopeClosedError, current_scope, scope
from unit_model import CONNECTED, Frame, Model
from watch import out


class World:
    """The event loop, the database and the session that all sequences share."""

    def __init__(self, runner: asyncio.Runner, engine: AsyncEngine, observer: AsyncEngine) -> None:
        self.runner = runner
        self.engine = engine
        self.observer = observer
        self.Session: Sessions = runner.run(scoped_session(engine))
        self.complaints: list[str] = []
        loop = runner.get_loop()
        loop.set_exception_handler(lambda _, context: self.complaints.append(f"{context}"))


class SideBySide:
    """Up to four actors in one sequence of steps."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.Session = world.Session
        self.model = Model()
        self.actors: list[Actor] = []
        self.real: dict[Frame, tuple[Any, Any]] = {}
        """Of each frame that is not left: how it is left, and what its entry gave."""
        self.log: list[str] = []
        self.count = 0

    async def begin(self) -> None:
        async with self.world.observer.connect() as connection:
            await connection.execute(delete(Entry))
        self.actors.append(Actor())
        self.model.current[self.actors[0]] = None

    async def spawn(self, parent: Actor) -> None:
        child = await parent.start()
        self.actors.append(child)
        self.model.current[child] = self.model.current[parent]

    async def open(self, actor: Actor, kind: str, commit: bool) -> None:
        async def order() -> Any:
            if kind == "savepoint":
                savepoint = await self.Session.begin_nested()
                return partial(end_by_hand, savepoint), savepoint
            opener = scope(propagation=cast("Any", kind), commit=commit)
            return opener.__aexit__, await opener.__aenter__()

        result = await actor.do(order)
        expected = self.model.open(actor, kind, commit=commit)
        if isinstance(expected, Frame):
            assert not isinstance(result, BaseException), result
            self.real[expected] = result
        else:
            agree(result, expected)

    async def leave(self, actor: Actor, frame: Frame, how: str) -> None:
        leave, _ = self.real.pop(frame)
        error = LookupError() if how == "fail" else None
        result = await actor.do(
            lambda: leave(error and type(error), error, None), cancelled=how == "cancelled"
        )
        expected = self.model.leave(actor, frame, failing=how == "fail")
        agree(result, asyncio.CancelledError if how == "cancelled" else expected)

    async def write(self, actor: Actor, breaks: bool) -> None:
        self.count += 1
        line = f"line {self.count}"

        async def order() -> set[str]:
            await self.Session.execute(insert(Entry).values(text=line, parent_id=-1 if breaks else None))
            return set(await self.Session.scalars(select(Entry.text)))

        result = await actor.do(order)
        if refusal := self.model.refusal(actor):
            agree(result, refusal)
        else:
            assert result == self.model.write(actor, line, breaks=breaks)

    async def watch(self, actor: Actor) -> None:
        self.count += 1
        name = f"callback {self.count}"

        async def order() -> None:
            current_scope().after_commit(self.log.append, f"{name} committed")
            current_scope().after_rollback(self._call_later, f"{name} rolled back")

        await self.do(actor, order, partial(self.model.watch, name=name))

    async def _call_later(self, entry: str) -> None:
        await asyncio.sleep(0)
        self.log.append(entry)

    async def do(self, actor: Actor, order: Any, step: Any, *, cancelled: bool = False) -> None:
        result = await actor.do(order, cancelled=cancelled)
        expected = self.model.refusal(actor) or step(actor)
        agree(result, asyncio.CancelledError if cancelled else expected)

    async def cancel(self, actor: Actor) -> None:
        frames = self.own(actor)

        async def unwind() -> None:
            for frame in frames:
                leave, _ = self.real.pop(frame)
                with suppress(ScopeClosedError, InvalidRequestError):  # of a savepoint that is gone
                    await leave(asyncio.CancelledError, asyncio.CancelledError(), None)

        actor.on_cancel = unwind
        await actor.cancel()
        for frame in frames:
            self.model.leave(actor, frame, failing=True)
        self.actors.remove(actor)

    async def end(self, *, sound: bool) -> None:
        """Leave nothing behind of a sequence that failed, since hypothesis looks for a shorter one."""
        for actor in self.actors:
            await actor.cancel()
        for leave, _ in reversed(self.real.values()):
            with suppress(Exception):
                await leave(LookupError, LookupError(), None)
        if not sound:
            await self.world.engine.dispose()
        complaints, self.world.complaints[:] = [*self.world.complaints], []
        assert complaints == []

    async def compare(self) -> None:
        """What the database holds, which callbacks ran, what is checked out, and what is current for each."""
        assert await stored(self.world.observer) == self.model.stored
        assert self.log == self.model.log
        scopes = [frame for frame in self.real if frame.kind == "new"]
        assert out(self.world.engine) == sum(each.transaction == CONNECTED for each in scopes)
        for actor in self.actors:
            await self._compare_current(actor)

    async def _compare_current(self, actor: Actor) -> None:
        async def order() -> Any:
            return current_scope(None)

        result, frame = await actor.do(order), self.model.current[actor]
        if frame is None:
            assert result is None
        elif frame.scope.left:
            agree(result, ScopeClosedError)
        else:
            assert result is self.real[frame.scope][1]

    def actor(self, who: int) -> Actor:
        actors = (who < 8 and self.inside()) or self.actors
        return actors[who % len(actors)]

    def inside(self) -> list[Actor]:
        """Those whose current scope is open."""
        return [actor for actor in self.actors if not self.model.refusal(actor)]

    def own(self, actor: Actor) -> list[Frame]:
        """What it has opened and nobody left, the newest first."""
        return [frame for frame in reversed(self.real) if frame.opener is actor]


async def end_by_hand(savepoint: Any, type_: object, error: BaseException | None, _: object) -> None:
    await (savepoint.commit() if error is None else savepoint.rollback())


def agree(result: Any, expected: type[BaseException] | None) -> None:
    """Whether a step raised what it must, or nothing."""
    if expected is None:
        assert not isinstance(result, BaseException), repr(result)
    else:
        assert isinstance(result, expected), f"{result!r} in place of {expected.__name__}"
