"""Following subjects of applications: what their streams keep, in the order of time, then what comes."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.consumer import PushConsumer, push_consumer
from pmoves_mesh.log.session import Session
from pmoves_mesh.log.subjects import overlap

_BATCH_MAX: Final = 200
_RETRY_S: Final = 0.1


class Heard(Struct, frozen=True, kw_only=True):
    """A message, byte for byte as it was sent.

    Attributes:
        time_ns: when the stream took it, or when it came, unix nanoseconds.
        stream: which keeps it; empty for one that was heard as it came.
        position: in that stream.
    """

    subject: str
    payload: bytes
    time_ns: int
    stream: str = ""
    position: int = 0


async def kept(
    connection: Connection, streams: Sequence[str], pattern: str, since_ms: int | None
) -> AsyncGenerator[Heard, None]:
    """Yields what streams hold on a pattern's subjects, the oldest first, then what comes, without end.

    A break of the connection costs nothing: it goes on after the last message of each stream.

    Args:
        connection: to their account.
        streams: their names.
        pattern: a subject, which may hold wildcards.
        since_ms: where to begin, unix milliseconds; None begins with what comes from now on.

    Raises:
        RightMissing: if this user may not read one of them.
        Refused: if JetStream refuses, as when there is no such stream.
    """
    places = {stream: _beginning(since_ms) for stream in streams}
    while True:
        session = await connection.next_session()
        try:
            async with aclosing(_follow(session, places, pattern)) as followed:
                async for heard in followed:
                    places[heard.stream] = _after(heard.position)
                    if overlap(pattern, heard.subject):
                        yield heard
        except LogUnavailable:
            await asyncio.sleep(_RETRY_S)


def _beginning(since_ms: int | None) -> dict[str, Any]:
    if since_ms is None:
        return {"deliver_policy": "new"}
    # Milliseconds are kept: a message that was sent at that very moment belongs to it.
    since = datetime.fromtimestamp(since_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return {"deliver_policy": "by_start_time", "opt_start_time": since.replace("+00:00", "Z")}


def _after(position: int) -> dict[str, Any]:
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": position + 1}


class _Source:
    """What one stream delivers."""

    def __init__(self, stream: str, consumer: PushConsumer) -> None:
        self.stream = stream
        self.consumer = consumer
        self.waiting: deque[Heard] = deque()

    async def fill(self) -> None:
        """Waits for the next messages, or for the news that there are none."""
        for message, delivery in await self.consumer.take(_BATCH_MAX):
            self.waiting.append(
                Heard(
                    subject=message.subject,
                    payload=message.data,
                    time_ns=delivery.time_ns,
                    stream=self.stream,
                    position=delivery.position,
                )
            )


async def _follow(
    session: Session, places: dict[str, dict[str, Any]], pattern: str
) -> AsyncGenerator[Heard, None]:
    async with AsyncExitStack() as stack:
        sources = []
        for stream, place in tuple(places.items()):
            # A pattern may be wider than what a stream has, which the server would refuse as a filter.
            narrow = {"filter_subject": pattern} if not {"*", ">"} & set(pattern.split(".")) else {}
            consumer = await stack.enter_async_context(push_consumer(session, stream, {**place, **narrow}))
            if place["deliver_policy"] == "new":
                # What comes after a break is new too, though nothing was heard before it.
                places[stream] = _after(consumer.before)
            sources.append(_Source(stream, consumer))
        async for heard in _past(sources):
            yield heard
        async with aclosing(_present(sources)) as coming:
            async for heard in coming:
                yield heard


async def _past(sources: Sequence[_Source]) -> AsyncIterator[Heard]:
    """Yields what was there at the beginning, in the order of time across all streams."""
    while True:
        for source in sources:
            while source.consumer.pending and not source.waiting:
                await source.fill()
        ready = [source for source in sources if source.waiting]
        if not ready:
            return
        yield min(ready, key=lambda source: source.waiting[0].time_ns).waiting.popleft()


async def _present(sources: Sequence[_Source]) -> AsyncGenerator[Heard, None]:
    """Yields what comes, from whichever stream."""
    filling = {asyncio.create_task(source.fill()): source for source in sources}
    try:
        while True:
            done, _ = await asyncio.wait(filling, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                source = filling.pop(task)
                task.result()
                while source.waiting:
                    yield source.waiting.popleft()
                filling[asyncio.create_task(source.fill())] = source
    finally:
        for task in filling:
            task.cancel()
        await asyncio.gather(*filling, return_exceptions=True)
