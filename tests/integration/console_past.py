"""Who tells of the past of a stream in memory: the real answers, without the process that they run in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from http_support import Served

from pmoves_mesh.agent.history.answers import Answers
from pmoves_mesh.agent.history.replay import Replayer
from pmoves_mesh.agent.history.showing import Showing
from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.core.history import EventsFollowed, Question, Told
from pmoves_mesh.core.moments import Kept
from pmoves_mesh.log.memory import MemoryBucket
from pmoves_mesh.log.memory_broker import MemoryBroker
from pmoves_mesh.ports import Clock, LogMessage
from pmoves_mesh.verifier import Verifier

_AT_ONCE = 500


class MemoryPast:
    """Reads a stream in memory back; stands for `log.past.NatsPast`."""

    def __init__(self, broker: MemoryBroker) -> None:
        self._broker = broker

    async def kept(self) -> Kept:
        bounds, messages = self._broker.bounds(), self._all()
        return Kept(
            first=bounds.first,
            last=bounds.last,
            first_ms=messages[0].time_ms,
            last_ms=messages[-1].time_ms,
            stream_id=bounds.stream_id,
        )

    async def stretch(
        self, after: int, last: int, subjects: Sequence[str] = ()
    ) -> AsyncGenerator[Sequence[LogMessage], None]:
        assert not subjects, "no picture needs them"
        yield [message for message in self._all() if after < message.position <= last]

    async def position_before(self, time_ms: int, kept: Kept) -> int:
        before = [message.position for message in self._all() if message.time_ms < time_ms]
        return before[-1] if before else kept.first - 1

    async def follow(
        self, after: int, _subjects: Sequence[str] = ()
    ) -> AsyncGenerator[Sequence[LogMessage], None]:
        yield [message for message in self._all() if message.position > after]
        await asyncio.Event().wait()  # nothing more happens

    def _all(self) -> list[LogMessage]:
        messages, left = self._broker.after(0, _AT_ONCE)
        assert not left
        return messages


class NoCheckpoints:
    """A past without snapshots; stands for `ports.Checkpoints`."""

    async def listed(self) -> Sequence[Place]:
        return ()

    async def read(self, _place: Place) -> bytes | None:
        return None


class MemoryHistorian:
    """Tells of the past of a stream in memory; implements `ports.Historian`."""

    def __init__(self, mesh: Served, clock: Clock) -> None:
        past: Any = MemoryPast(mesh.broker)
        checkpoints: Any = NoCheckpoints()
        verifier = Verifier(mesh.authority.trust, MemoryBucket(mesh.client, "identities"), clock)
        replayer = Replayer(past, checkpoints, MemoryBucket(mesh.client, "registry"), verifier)
        keeping: Any = None
        self._showing = Showing(past, replayer)
        self._answers = Answers(past, replayer, self._showing, keeping)

    async def ask(self, question: Question) -> Told:
        assert not isinstance(question, EventsFollowed)
        return await self._answers.answer(question)

    async def follow(self, wanted: EventsFollowed) -> AsyncGenerator[Sequence[Told], None]:
        async for group in self._showing.follow(wanted):
            yield [self._showing.told(event) for event in group]
