"""Answering `$SRV`: this node's services as microservices, for whoever asks with `nats micro`.

Source: NATS ADR-32 (Service API).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from pmoves_mesh.agent.micro.protocol import PREFIX, answer, is_micro, parse_subject
from pmoves_mesh.core.model import Instance
from pmoves_mesh.errors import LogError, LogUnavailable
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.session import Session
from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

AGENTS_QUESTION: Final = b"pmoves-mesh"
"""What an agent's own question holds: it looks for the services that answer by themselves."""

ANSWERS_MAX: Final = 1000
"""As many as one question gets of one agent."""

_INBOX: Final = "_INBOX."
_AT_ONCE: Final = 64
_REFUSED_RETRY_S: Final = 60.0


class Answering:
    """Answers for the instances of this node, but for those that answer by themselves."""

    def __init__(
        self, connection: Connection, instances: Callable[[], Iterable[Instance]], clock: Clock
    ) -> None:
        self._connection = connection
        self._instances = instances
        self._clock = clock

    async def run(self) -> None:
        """Answers for ever."""
        while True:
            session = await self._connection.next_session()
            try:
                async with await session.subscribe(f"{PREFIX}.>") as inbox:
                    while True:
                        for message in await inbox.take(_AT_ONCE, None):
                            if message.data != AGENTS_QUESTION and is_inbox(message.reply):
                                await self._answer(session, message.subject, message.reply)
            except LogUnavailable:
                continue
            except LogError as error:
                _log.warning("questions on $SRV are not answered", detail=str(error))
                await self._clock.sleep(_REFUSED_RETRY_S)

    async def _answer(self, session: Session, subject: str, reply: str) -> None:
        asked = parse_subject(subject)
        if asked is None:
            return
        count = 0
        for index, record in enumerate(tuple(self._instances())):
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
            said = None if is_micro(record) else answer(asked, record)
            if said is not None:
                await session.publish(reply, said)
                count += 1
            if count >= ANSWERS_MAX:
                return


def is_inbox(reply: str) -> bool:
    """Returns whether an answer may go there: whoever asks must not make an agent speak elsewhere.

    NATS checks what somebody publishes, and not where they want the answer: it might be a subject
    on which an agent is obeyed, and they are not.
    """
    return reply.startswith(_INBOX) and "*" not in reply and ">" not in reply
