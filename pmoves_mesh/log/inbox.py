"""An inbox: the messages of one subscription, as far as a reader has not taken them yet."""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Protocol, Self

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from pmoves_mesh.errors import RightMissing
from pmoves_mesh.log.client import NatsClient

_MESSAGES_MAX: Final = 2**19
_BYTES_MAX: Final = 2**27


class Carrier(Protocol):
    """What an inbox needs of the session that it belongs to."""

    @property
    def client(self) -> NatsClient:
        """The connection."""
        ...

    @property
    def lost(self) -> asyncio.Event:
        """Set when the connection is gone."""
        ...

    def check(self) -> None:
        """Raises `LogUnavailable` if the session is lost."""
        ...

    async def publish(self, subject: str, payload: bytes = b"", reply: str = "") -> None:
        """Sends a message."""
        ...

    def forget(self, inbox: Inbox) -> None:
        """Drops an inbox that was left."""
        ...


class Inbox:
    """The messages of one subscription, in order, in a bounded queue; leaving it unsubscribes.

    When the queue is full, messages are dropped: readers that must not lose any use flow control and
    sequences.

    Attributes:
        asked: where the request went whose answers come here.
    """

    def __init__(self, session: Carrier) -> None:
        self.asked = ""
        self._session = session
        self._messages: deque[Msg] = deque()
        self._arrived = asyncio.Event()
        self._bytes = 0
        self._subscription: Subscription | None = None
        self._denied: RightMissing | None = None

    @property
    def subject(self) -> str:
        """What is subscribed to."""
        return self._subscription.subject if self._subscription else ""

    async def take(self, count_max: int, timeout_s: float | None) -> list[Msg]:
        """Returns what has arrived, at most `count_max` messages; waits for the first.

        Returns nothing after `timeout_s` seconds without a message; None waits until there is one.

        Raises:
            LogUnavailable: if the session is lost and everything that had arrived is taken.
            RightMissing: if the server refuses the subscription.
        """
        if not self._messages:
            self._arrived.clear()
            if self._denied is not None:
                raise self._denied
            self._session.check()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._arrived.wait()
            except TimeoutError:
                return []
        messages = self._messages
        taken = [messages.popleft() for _ in range(min(count_max, len(messages)))]
        self._bytes -= sum(len(message.data) for message in taken)
        if taken:
            return taken
        return await self.take(count_max, timeout_s)

    def _on_message(self, message: Msg) -> None:
        if len(self._messages) >= _MESSAGES_MAX or self._bytes + len(message.data) > _BYTES_MAX:
            return
        self._messages.append(message)
        self._bytes += len(message.data)
        self._arrived.set()

    async def open(self, subject: str, queue: str) -> None:
        """Subscribes; called by `Session.subscribe`."""
        self._subscription = await self._session.client.hand(subject, self._on_message, queue)

    async def ask(self, subject: str, payload: bytes) -> None:
        """Sends a request whose answers, any number, come into this inbox.

        Raises:
            LogUnavailable: if the session is lost.
        """
        self.asked = subject
        await self._session.publish(subject, payload, self.subject)

    def wake(self, denied: RightMissing | None = None) -> None:
        """Ends a wait, because the session is lost or the server refuses the subscription."""
        self._denied = denied
        self._arrived.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session.forget(self)
        if self._subscription is not None and not self._session.lost.is_set():
            try:
                await self._session.client.leave(self._subscription)
            except nats.errors.Error:
                return  # the connection broke meanwhile, and the subscription with it
