"""Finding microservices: asks who answers on `$SRV`, registers them, and removes who does not any more.

Every agent that hears them asks, and the more agents there are the less often each does: a service
answers at most once a second, however large the mesh is. One of them registers each service.

Source: NATS ADR-32 (Service API).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import structlog

from pmoves_mesh.agent.micro.answering import AGENTS_QUESTION
from pmoves_mesh.agent.micro.protocol import (
    FIELD,
    PREFIX,
    Info,
    instance_id,
    is_micro,
    owner_of,
    parse_info,
    registration_of,
)
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.names import sanitise_label
from pmoves_mesh.errors import InvalidFieldError, LogError, LogUnavailable, MalformedEvent, MeshError
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.ports import Clock, Reporter
from pmoves_mesh.replica import Replica

_log: Final = structlog.get_logger(__name__)

FOUND_MAX: Final = 2000
"""As many as are taken notice of at once."""

_REPLIES: Final = "_INBOX.micro"
_EVERY_MIN_S: Final = 5.0
_ANSWER_S: Final = 1.0
_MISSED_MAX: Final = 2
_TTL_S: Final = 60.0
_BATCH: Final = 256
_REFUSED_RETRY_S: Final = 60.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where microservices are registered.

    Attributes:
        node: this one.
        alone: whether no other agent hears them, as in a secured mesh.
    """

    node: str
    alone: bool


class Finding:
    """Keeps this node's registrations in step with the microservices that are its own.

    Attributes:
        refused: how many answers could not be read or registered.
    """

    def __init__(
        self,
        place: Place,
        connection: Connection,
        registrations: Registrations,
        reporter: Reporter,
        replica: Replica,
        clock: Clock,
    ) -> None:
        self.refused = 0
        self._place = place
        self._connection = connection
        self._registrations = registrations
        self._reporter = reporter
        self._replica = replica
        self._clock = clock
        self._missed: dict[InstanceKey, int] = {}

    async def run(self) -> None:
        """Asks again and again, for ever."""
        while True:
            pause_s = self._interval_s()
            try:
                if self._replica.is_current:
                    await self._take_in(await self._ask())
            except LogUnavailable as error:
                _log.debug("microservices not asked", detail=str(error))
            except LogError as error:
                _log.warning("microservices are not found", detail=str(error))
                pause_s = _REFUSED_RETRY_S
            await self._clock.sleep(pause_s)

    def _hearers(self) -> set[str]:
        """Returns the nodes that hear microservices, this one among them."""
        own = self._place.node
        if self._place.alone:
            return {own}
        nodes = self._replica.registry.nodes.values()
        return {own, *(node.name for node in nodes if node.status == "alive")}

    def _interval_s(self) -> float:
        return max(_EVERY_MIN_S, float(len(self._hearers())))

    async def _ask(self) -> dict[InstanceKey, Info]:
        """Returns who answers within a second, by what they would be on this node."""
        found: dict[InstanceKey, Info] = {}
        session = self._connection.session()
        loop = asyncio.get_running_loop()
        async with await session.subscribe(f"{_REPLIES}.{secrets.token_hex(8)}") as inbox:
            await inbox.ask(f"{PREFIX}.INFO", AGENTS_QUESTION)
            until_s = loop.time() + _ANSWER_S
            while (left_s := until_s - loop.time()) > 0 and len(found) < FOUND_MAX:
                for message in await inbox.take(_BATCH, left_s):
                    self._read(message.data, found)
        return found

    def _read(self, payload: bytes, found: dict[InstanceKey, Info]) -> None:
        if not payload:
            return  # the server says that nobody listens
        try:
            info = parse_info(payload)
            name = sanitise_label(info.name, "name")
        except (MalformedEvent, InvalidFieldError) as error:
            self.refused += 1
            _log.debug("answer not read", detail=str(error))
            return
        found[InstanceKey(name, self._place.node, instance_id(info.id))] = info

    async def _take_in(self, found: dict[InstanceKey, Info]) -> None:
        """Registers who is this node's, and lets go of who is not, or is no more."""
        hearers = self._hearers()
        for key, info in found.items():
            owner = owner_of(info, hearers)
            if owner == self._place.node:
                await self._keep(key, info)
            elif key in self._missed and self._is_held_by(owner, key):
                await self._drop(key, f"{owner} has it")
        for key in tuple(self._own()):
            self._missed[key] = 0 if key in found else self._missed.get(key, 0) + 1
            if self._missed[key] >= _MISSED_MAX:
                await self._drop(key, "it does not answer any more")

    async def _keep(self, key: InstanceKey, info: Info) -> None:
        held = self._registrations.held.get(key)
        if held is not None and not is_micro(held.record):
            self.refused += 1
            return  # somebody else is registered under that name: whoever answers on NATS cannot take it
        try:
            await self._registrations.register(registration_of(info, _TTL_S), wait=False)
            await self._reporter.report(key.service, "healthy", "", instance_id=key.id, wait=False)
        except MeshError as error:
            self.refused += 1
            _log.debug("microservice not registered", service=key.service, id=key.id, detail=str(error))
            return
        if held is None:
            _log.info("microservice found", service=key.service, id=key.id)
        self._missed[key] = 0

    async def _drop(self, key: InstanceKey, why: str) -> None:
        self._missed.pop(key, None)
        try:
            await self._registrations.deregister(key.service, instance_id=key.id, wait=False)
        except MeshError as error:
            _log.debug("microservice not removed", service=key.service, id=key.id, detail=str(error))
        else:
            _log.info("microservice removed", service=key.service, id=key.id, why=why)

    def _own(self) -> Iterator[InstanceKey]:
        """Yields the microservices that are registered on this node, also by an earlier run of its agent."""
        for key, held in self._registrations.held.items():
            said: Any = held.record.metadata.get(FIELD)
            if is_micro(held.record) and instance_id(str(said.get("id"))) == key.id:
                yield key

    def _is_held_by(self, node: str, key: InstanceKey) -> bool:
        return self._replica.registry.entry(key._replace(node=node)) is not None
