"""Work queues: durable pull consumers that all agents share, such as the materialiser's."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from nats.aio.msg import Msg

from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.log import api
from pmoves_mesh.log.api import PREFIX, ConsumerInfo
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.consumer import parse_reply, to_log_message
from pmoves_mesh.log.headers import description, status
from pmoves_mesh.log.inbox import Inbox
from pmoves_mesh.log.session import Session
from pmoves_mesh.log.topology import EVENTS, MATERIALISER
from pmoves_mesh.ports import LogMessage

_NANO: Final = 10**9
_GRACE_S: Final = 1.0
_EXPIRES_MIN_S: Final = 0.01
_ENDED: Final = frozenset({404, 408})


class NatsDelivery:
    """A message that this worker alone was handed; implements `ports.Delivery`."""

    def __init__(self, session: Session, message: Msg) -> None:
        self._session = session
        self._reply = message.reply
        self._message = to_log_message(message, parse_reply(message.reply))

    @property
    def message(self) -> LogMessage:
        """The event."""
        return self._message

    async def ack(self) -> None:
        """Says that the work is done. An acknowledgement that gets lost means: handed out again.

        Raises:
            LogUnavailable: if the session that handed it out is lost.
        """
        await self._session.publish(self._reply, b"+ACK")

    async def working(self) -> None:
        """Says that the work goes on, so that it is not handed out again meanwhile.

        Raises:
            LogUnavailable: if the session that handed it out is lost.
        """
        await self._session.publish(self._reply, b"+WPI")


class NatsWorkQueue:
    """A durable consumer, by default `materialiser`; implements `ports.WorkQueue`, for one worker.

    What the server sends to one request may arrive in several fetches: nothing that was handed to
    this worker is thrown away while the session lasts.
    """

    def __init__(self, connection: Connection, stream: str = EVENTS, consumer: str = MATERIALISER) -> None:
        self._connection = connection
        self._consumer = consumer
        self._place = f"{stream}.{consumer}"
        self._session: Session | None = None
        self._inbox: Inbox | None = None
        self._open = 0
        self._open_until = 0.0

    async def fetch(self, count_max: int, timeout_s: float) -> Sequence[NatsDelivery]:
        """Returns what there is, up to `count_max`; with nothing there, the first within `timeout_s`.

        Raises:
            LogUnavailable: if the log cannot be reached, or the consumer is gone.
            RightMissing: if this user may not fetch.
        """
        session = self._connection.session()
        inbox = await self._inbox_of(session)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            if self._open <= 0 or loop.time() > self._open_until:
                expires_s = max(deadline - loop.time(), _EXPIRES_MIN_S)
                body = {"batch": count_max, "expires": int(expires_s * _NANO)}
                await inbox.ask(f"{PREFIX}CONSUMER.MSG.NEXT.{self._place}", msgspec.json.encode(body))
                self._open, self._open_until = count_max, loop.time() + expires_s + _GRACE_S
            taken = await inbox.take(count_max, max(deadline - loop.time(), 0))
            deliveries = self._deliveries(session, taken)
            if deliveries or loop.time() >= deadline:
                return deliveries

    async def floor(self) -> int:
        """Returns the position up to which every event was acknowledged.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        verb = f"CONSUMER.INFO.{self._place}"
        info = await api.call(self._connection.session(), verb, ConsumerInfo)
        return info.ack_floor.stream_seq

    async def _inbox_of(self, session: Session) -> Inbox:
        if self._inbox is None or session is not self._session:
            self._inbox = await session.subscribe()
            self._session = session
            self._open = 0
        return self._inbox

    def _deliveries(self, session: Session, messages: list[Msg]) -> list[NatsDelivery]:
        """Returns the events among what arrived, and notes when the server ended the request."""
        deliveries = []
        reason = ""
        for message in messages:
            code = status(message)
            if code:
                self._open = 0
                if code not in _ENDED:
                    reason = f"{description(message) or 'no such consumer'} ({code})"
            else:
                self._open -= 1
                deliveries.append(NatsDelivery(session, message))
        if reason and not deliveries:
            raise LogUnavailable(f"consumer {self._consumer}: {reason}")
        return deliveries
