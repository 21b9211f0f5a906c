"""An ephemeral push consumer: a stretch of a stream in order, each message once, or an error.

It is verified, not trusted: consumer sequences must follow one another, and a silence longer than
the heartbeats allow ends it. nats-py's ordered consumer needs some 19 s for that.

Source: NATS ADR-15 (JetStream subscription workflow), ADR-17 (ordered consumer).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from nats.aio.msg import Msg

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.errors import LogError, LogUnavailable
from pmoves_mesh.log.api import ConsumerInfo, call
from pmoves_mesh.log.headers import description, status
from pmoves_mesh.log.inbox import Inbox
from pmoves_mesh.log.session import Session
from pmoves_mesh.ports import LogMessage

_HEARTBEAT_S: Final = 1.0
_SILENCE_MAX_S: Final = 3.0
_STOOD_STILL_S: Final = 0.1
_INACTIVE_S: Final = 5.0
_NANO: Final = 10**9
_SHORT_FORM: Final = 9
_TTL: Final = "Nats-TTL"


class Delivery(NamedTuple):
    """What the reply subject of a delivered message says.

    Attributes:
        position: the stream's sequence.
        serial: the consumer's own sequence, from 1.
        time_ns: when the stream took the message, unix nanoseconds.
        pending: messages that the consumer still has to deliver after this one.
    """

    position: int
    serial: int
    time_ns: int
    pending: int

    @property
    def time_ms(self) -> int:
        """The same in milliseconds, rounded down."""
        return self.time_ns // 1_000_000


def parse_reply(reply: str) -> Delivery:
    """Returns what a `$JS.ACK` subject says, in its short form or the one with domain and account.

    Raises:
        LogError: if it is no such subject.

    Source: NATS ADR-15, reply subjects of 9, 11 and 12 tokens.
    """
    tokens = reply.split(".")
    offset = 0 if len(tokens) == _SHORT_FORM else 2
    if len(tokens) < _SHORT_FORM + offset or tokens[:2] != ["$JS", "ACK"]:
        raise LogError(f"{reply[:128]!r} is not the reply subject of a JetStream message")
    try:
        position, serial, nanoseconds, pending = map(int, tokens[5 + offset : 9 + offset])
    except ValueError:
        raise LogError(f"{reply[:128]!r} is not the reply subject of a JetStream message") from None
    return Delivery(position, serial, nanoseconds, pending)


def to_log_message(message: Msg, delivery: Delivery) -> LogMessage:
    """Returns a delivered message as an event; the header of its TTL was the stream's alone."""
    headers = message.headers or {}
    headers.pop(_TTL, None)
    sealed = SealedEvent(subject=message.subject, payload=message.data, headers=headers)
    return LogMessage(sealed=sealed, position=delivery.position, time_ms=delivery.time_ms)


class PushConsumer:
    """What a consumer delivers, verified.

    Attributes:
        pending: messages still to be delivered; 0 once everything was.
        before: the stream's sequence just before where it began.
    """

    def __init__(self, session: Session, inbox: Inbox, pending: int, before: int = 0) -> None:
        self.pending = pending
        self.before: Final = before
        self._session = session
        self._inbox = inbox
        self._count = 0

    async def take(self, count_max: int) -> list[tuple[Msg, Delivery]]:
        """Returns the next messages, at most `count_max`; none when only `pending` is news.

        Raises:
            LogUnavailable: if the session is lost, the server fell silent, or a message is missing.
            RightMissing: if the user may not receive.
        """
        while True:
            before = self.pending
            messages = await self._inbox.take(count_max, _SILENCE_MAX_S)
            if not messages:
                # Where it was this process that stood still, what the server sent has yet to be read.
                messages = await self._inbox.take(count_max, _STOOD_STILL_S)
            if not messages:
                raise LogUnavailable(f"the server sent nothing for {_SILENCE_MAX_S:g} s")
            taken = []
            for message in messages:
                if status(message):
                    await self._control(message)
                else:
                    taken.append((message, self._next(message)))
            if taken or self.pending != before:
                return taken

    def _next(self, message: Msg) -> Delivery:
        delivery = parse_reply(message.reply)
        self._count += 1
        if delivery.serial != self._count:
            raise LogUnavailable(f"message {self._count} of the consumer was lost on the way")
        self.pending = delivery.pending
        return delivery

    async def _control(self, message: Msg) -> None:
        """Answers flow control, and reads from a heartbeat whether everything was delivered."""
        headers = message.headers or {}
        stalled = headers.get("Nats-Consumer-Stalled")
        if status(message) != 100:
            raise LogUnavailable(f"the consumer ended: {description(message) or status(message)}")
        if message.reply or stalled:
            await self._session.publish(message.reply or stalled or "")
        elif "Nats-Last-Consumer" in headers:
            if int(headers["Nats-Last-Consumer"]) != self._count:
                raise LogUnavailable(f"message {self._count + 1} of the consumer was lost on the way")
            # An idle server has nothing left, even if what was pending has expired meanwhile.
            self.pending = 0


@asynccontextmanager
async def push_consumer(session: Session, stream: str, config: dict[str, Any]) -> AsyncIterator[PushConsumer]:
    """Makes a consumer on a stream; the server removes it some seconds after it was left.

    Args:
        session: where.
        stream: its name.
        config: where to begin and what to deliver, as in the JetStream API.

    Raises:
        LogUnavailable: if JetStream does not answer.
        RightMissing: if the user may not.
        Refused: if JetStream refuses, as when there is no such stream.
    """
    async with await session.subscribe() as inbox:
        # Its name is in the subject of the request, so that a user can be kept from others' consumers.
        name = inbox.subject.rpartition(".")[2]
        body = {
            "stream_name": stream,
            "config": {
                "name": name,
                "deliver_subject": inbox.subject,
                "ack_policy": "none",
                "max_deliver": 1,
                "mem_storage": True,
                "num_replicas": 1,
                "flow_control": True,
                "idle_heartbeat": int(_HEARTBEAT_S * _NANO),
                "inactive_threshold": int(_INACTIVE_S * _NANO),
                **config,
            },
        }
        info = await call(session, f"CONSUMER.CREATE.{stream}.{name}", ConsumerInfo, body)
        yield PushConsumer(session, inbox, info.num_pending, info.delivered.stream_seq)
