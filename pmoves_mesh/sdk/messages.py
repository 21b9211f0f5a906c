"""Messages on application subjects, over NATS with the caller's own identity."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import application
from pmoves_mesh.core.application import ApplicationEvent, Told
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import InvalidFieldError, LogUnavailable
from pmoves_mesh.log import api
from pmoves_mesh.log.connection import Connection, NatsSettings

_CONNECT_S: Final = 5.0
_RECORD_S: Final = 10.0
_RETRY_S: Final = 0.2
_MESSAGE_ID: Final = "Nats-Msg-Id"
_OURS: Final = ("mesh.node.", "mesh.trust.", "service.registry.", "$")


class Message(Struct, frozen=True, kw_only=True):
    """What somebody published.

    Attributes:
        payload: as it was sent.
    """

    subject: str
    payload: bytes

    def json(self) -> Any:
        """Returns the payload decoded from JSON.

        Raises:
            InvalidFieldError: if it is not JSON.
        """
        try:
            return msgspec.json.decode(self.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidFieldError("payload", f"not JSON ({error})") from None

    def told(self) -> Told:
        """Returns what is told on one of the subjects that the mesh keeps: a file, a transcript, a tool.

        Raises:
            InvalidFieldError: if it is none of these subjects, or the payload is no JSON object.
        """
        return application.read(self.subject, self.payload)


class Messages:
    """Publishes and listens; the connection is made when it is used first, and never given up after."""

    def __init__(self, settings: Callable[[], NatsSettings], stack: AsyncExitStack) -> None:
        """Takes the settings, read when they are needed, and the stack that ends the connection."""
        self._settings = settings
        self._stack = stack
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()

    async def publish(self, subject: str, payload: object) -> None:
        """Publishes once; whoever listens now gets it, nobody confirms it.

        Args:
            subject: one that is the application's.
            payload: bytes as they are, text as UTF-8, anything else as JSON.

        Raises:
            InvalidFieldError: if the subject is the mesh's, or has a wildcard.
            LogUnavailable: if NATS cannot be reached.
            RightMissing: if the login is refused.
        """
        tokens = subject.split(".")
        if "*" in tokens or ">" in tokens or "" in tokens or " " in subject:
            raise InvalidFieldError("subject", f"{subject[:80]!r} is not a subject to publish on")
        if subject.startswith(_OURS):
            raise InvalidFieldError("subject", f"{subject[:80]} is the mesh's: its agents speak there")
        match payload:
            case bytes():
                data = payload
            case str():
                data = payload.encode()
            case _:
                data = msgspec.json.encode(payload)
        await (await self.connected()).publish_core(subject, data)

    async def record(self, event: ApplicationEvent, source: str) -> int:
        """Tells an event, once, and returns its position in the stream that keeps it.

        It is tried for 10 s, and however often, the stream takes it once.

        Raises:
            LogUnavailable: if no stream has confirmed it; it may be kept all the same.
            RightMissing: if this identity may not publish there.
        """
        envelope_id = str(UUID(bytes=secrets.token_bytes(16), version=4))
        payload = application.write(event, envelope_id, source, iso(SystemClock().now_ms()))
        connection = await self.connected()
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + _RECORD_S
        while True:
            try:
                session = connection.session()
                return await api.publish(session, event.subject, payload, {_MESSAGE_ID: envelope_id})
            except LogUnavailable:
                if loop.time() >= give_up_s:
                    raise
                await asyncio.sleep(_RETRY_S)

    async def subscribe(self, subject: str, queue: str = "") -> AsyncGenerator[Message, None]:
        """Yields what is published on a subject, without end; what came while NATS was away is missed.

        Args:
            subject: may hold wildcards.
            queue: of those that name the same one, one gets each message.

        Raises:
            LogUnavailable: if NATS cannot be reached at first.
            RightMissing: if the login or the subscription is refused.
        """
        connection = await self.connected()
        async with aclosing(connection.subscribe_core(subject, queue)) as heard:
            async for name, payload in heard:
                yield Message(subject=name, payload=payload)

    async def connected(self) -> Connection:
        """Returns the connection, made at the first call."""
        async with self._opening:
            if self._connection is None:
                settings = await asyncio.to_thread(self._settings)
                self._connection = await self._stack.enter_async_context(Connection(settings))
                await self._connection.wait_connected(_CONNECT_S)
            return self._connection
