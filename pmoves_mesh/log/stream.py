"""The stream of events on JetStream: publish once, follow for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.errors import LogError, LogUnavailable, SequenceGap
from pmoves_mesh.log import api
from pmoves_mesh.log.api import Refused, StreamInfo
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.consumer import push_consumer, to_log_message
from pmoves_mesh.log.session import Session
from pmoves_mesh.log.topology import EVENTS, bounds_of
from pmoves_mesh.ports import LogBounds, TailBatch

_BATCH_MAX: Final = 500
_RETRY_S: Final = 0.05
_AWAY: Final = TailBatch(messages=(), pending=None)


class NatsEventLog:
    """The stream `MESH_EVENTS`; implements `ports.EventLog`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def connected(self) -> bool:
        """Whether the log can be reached at this moment."""
        return self._connection.connected

    async def publish(self, sealed: SealedEvent, *, ttl_s: int | None = None) -> int:
        """Appends an event, once however often it is called, and returns its position.

        Many calls may be under way at once; the stream takes them in the order of the calls.

        Args:
            sealed: the event.
            ttl_s: seconds after which the stream forgets it; at least 1.

        Raises:
            LogUnavailable: if no acknowledgement came within 2 s. The event may still be in the stream.
            RightMissing: if this user may not publish on the event's subject.
            Refused: if the stream does not take it, as when it is too large.
        """
        headers = sealed.headers if ttl_s is None else {**sealed.headers, "Nats-TTL": f"{ttl_s}s"}
        return await api.publish(self._connection.session(), sealed.subject, sealed.payload, headers)

    async def tail(self, after: int) -> AsyncGenerator[TailBatch, None]:
        """Yields every event with a position above `after`, in order, each once, without end.

        Raises:
            SequenceGap: if the stream ends before what was yielded: it was made anew or restored.
            LogError: if the stream is gone altogether.
            RightMissing: if this user may not read the stream.
        """
        place = _Place(after)
        while True:
            if not self._connection.connected:
                yield _AWAY
            session = await self._connection.next_session()
            try:
                async for batch in _follow(session, place):
                    yield batch
            except LogUnavailable:
                yield _AWAY
                await asyncio.sleep(_RETRY_S)

    async def bounds(self) -> LogBounds:
        """Returns which positions the stream holds.

        Raises:
            LogUnavailable: if the log cannot be reached.
            LogError: if there is no stream.
        """
        return bounds_of(await _info(self._connection.session()))


class _Place:
    """How far a tail has come, and in which incarnation of the stream."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.stream_id = ""


async def _info(session: Session) -> StreamInfo:
    try:
        return await api.call(session, f"STREAM.INFO.{EVENTS}", StreamInfo)
    except Refused as error:
        if error.err_code != api.STREAM_NOT_FOUND:
            raise
        raise LogError(
            f"stream {EVENTS} is gone from {session.url}; an agent's start makes it anew"
        ) from None


async def _follow(session: Session, place: _Place) -> AsyncIterator[TailBatch]:
    """Yields what comes after a place, and moves the place on, until the session or consumer ends."""
    bounds = bounds_of(await _info(session))
    if bounds.last < place.position or place.stream_id not in {"", bounds.stream_id}:
        raise SequenceGap(place.position, bounds.first)
    place.stream_id = bounds.stream_id
    start = {"deliver_policy": "by_start_sequence", "opt_start_seq": place.position + 1}
    async with push_consumer(session, EVENTS, start) as consumer:
        if consumer.pending == 0:
            yield TailBatch(messages=(), pending=0)
        while True:
            taken = await consumer.take(_BATCH_MAX)
            messages = [to_log_message(message, delivery) for message, delivery in taken]
            if messages:
                place.position = messages[-1].position
            yield TailBatch(messages=messages, pending=consumer.pending)
