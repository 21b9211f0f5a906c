"""Reading back in the stream of events: a stretch of it, once, from a position or a time on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final

from pmoves_mesh.core.moments import Kept
from pmoves_mesh.errors import LogError
from pmoves_mesh.log import api
from pmoves_mesh.log.api import Refused, StreamInfo
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.consumer import push_consumer, to_log_message
from pmoves_mesh.log.topology import EVENTS, bounds_of
from pmoves_mesh.ports import LogMessage

_BATCH_MAX: Final = 500
_CONSUMED_MAX: Final = 4000
"""Messages from one consumer: the server sends more and more ahead, and signs of life wait behind that."""


class NatsPast:
    """The stream `MESH_EVENTS`, as far back as it goes. Methods raise `LogUnavailable` as the log's do."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def kept(self) -> Kept:
        """Returns what the stream holds.

        Raises:
            LogError: if there is no stream.
        """
        try:
            info = await api.call(self._connection.session(), f"STREAM.INFO.{EVENTS}", StreamInfo)
        except Refused as error:
            if error.err_code != api.STREAM_NOT_FOUND:
                raise
            raise LogError(f"stream {EVENTS} is gone; an agent's start makes it anew") from None
        bounds, state = bounds_of(info), info.state
        return Kept(
            first=bounds.first,
            last=bounds.last,
            first_ms=_unix_ms(state.first_ts) if state.messages else 0,
            last_ms=_unix_ms(state.last_ts) if state.messages else 0,
            stream_id=bounds.stream_id,
        )

    async def stretch(
        self, after: int, last: int, subjects: Sequence[str] = ()
    ) -> AsyncGenerator[Sequence[LogMessage], None]:
        """Yields the events behind `after`, up to `last`, in groups and in order, then ends.

        Args:
            after: a position.
            last: another one, which the stream has reached.
            subjects: only events on one of these; all, if there is none.
        """
        while after < last:
            begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
            taken = 0
            async with aclosing(self._read({**begin, **_filtered(subjects)})) as groups:
                async for messages, pending in groups:
                    wanted = [message for message in messages if message.position <= last]
                    if wanted:
                        yield wanted
                    if not pending or len(wanted) < len(messages):
                        return
                    after = messages[-1].position if messages else after
                    taken += len(messages)
                    if after >= last or taken >= _CONSUMED_MAX:
                        break

    async def position_before(self, time_ms: int, kept: Kept) -> int:
        """Returns the position of the last event that the stream took before a time.

        Args:
            time_ms: unix milliseconds.
            kept: what the stream holds.
        """
        since = datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(timespec="milliseconds")
        begin = {"deliver_policy": "by_start_time", "opt_start_time": since.replace("+00:00", "Z")}
        async with aclosing(self._read(begin)) as groups:
            async for messages, pending in groups:
                if messages:
                    return messages[0].position - 1
                if not pending:
                    break
        return kept.last

    async def follow(
        self, after: int, subjects: Sequence[str] = ()
    ) -> AsyncGenerator[Sequence[LogMessage], None]:
        """Yields the events behind `after`, in groups and in order, and what comes, without end."""
        begin = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        async with aclosing(self._read({**begin, **_filtered(subjects)})) as groups:
            async for messages, _ in groups:
                if messages:
                    yield messages

    async def _read(self, config: dict[str, Any]) -> AsyncGenerator[tuple[Sequence[LogMessage], int], None]:
        session = self._connection.session()
        async with push_consumer(session, EVENTS, config) as consumer:
            if consumer.pending == 0:
                yield (), 0
            while True:
                taken = await consumer.take(_BATCH_MAX)
                yield [to_log_message(message, delivery) for message, delivery in taken], consumer.pending


def _filtered(subjects: Sequence[str]) -> dict[str, Any]:
    if not subjects:
        return {}
    return {"filter_subject": subjects[0]} if len(subjects) == 1 else {"filter_subjects": list(subjects)}


def _unix_ms(text: str) -> int:
    """Returns a time of the server in unix milliseconds, rounded down.

    Source: RFC 3339; the server writes up to nine digits of a second.
    """
    whole, _, rest = text.rstrip("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * 1000 + int((rest + "000")[:3])
