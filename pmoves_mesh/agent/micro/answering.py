"""Answering `$SRV`: services of the mesh as microservices, for whoever asks with `nats micro`.

Source: NATS ADR-32 (Service API).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

import structlog

from pmoves_mesh.agent.micro.protocol import PREFIX, answer, is_micro, parse_subject
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.registry import Registry
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
    """Answers for instances, but for those that answer by themselves."""

    def __init__(
        self, connection: Connection, instances: Callable[[str], Iterable[Instance]], clock: Clock
    ) -> None:
        """Takes what returns whom it answers for: the instances of one service, or all if that is empty."""
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
        meant = (record for record in self._instances(asked.name) if not is_micro(record))
        for index, record in enumerate(tuple(islice(meant, ANSWERS_MAX))):
            said = answer(asked, record)
            if said is not None:
                await session.publish(reply, said)
            if index % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)


def of_node(registrations: Registrations, service: str) -> Iterator[Instance]:
    """Yields the instances of this node; of one service, or of all if that is empty."""
    for key, held in registrations.held.items():
        if service in {"", key.service}:
            yield held.record


def of_mesh(registry: Registry, service: str) -> Iterator[Instance]:
    """Yields the instances of every node that lives, likewise."""
    for entry in registry.of_service(service) if service else registry.entries():
        if registry.nodes[entry.record.node].status == "alive" and registry.is_listed(entry):
            yield entry.record


def is_inbox(reply: str) -> bool:
    """Returns whether an answer may go there: whoever asks must not make an agent speak elsewhere.

    NATS checks what somebody publishes, and not where they want the answer: it might be a subject
    on which an agent is obeyed, and they are not.
    """
    return reply.startswith(_INBOX) and "*" not in reply and ">" not in reply
