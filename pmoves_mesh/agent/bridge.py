"""The bridge to `services.announce.v1`: hears the services that announce there, and speaks there for ours."""

from __future__ import annotations

from typing import Final

import structlog

from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.core import slug
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import InstanceRegistered
from pmoves_mesh.core.query import iso
from pmoves_mesh.errors import LogError, LogUnavailable, RemoteProtocolError
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.ports import Clock, EventLog
from pmoves_mesh.replica import Replica

_log: Final = structlog.get_logger(__name__)

_QUEUE: Final = "pmoves-mesh"
_EVERY_S: Final = 60.0
_KEPT_S: Final = 180
_REFUSED_RETRY_S: Final = 5.0


class Bridge:
    """Joins the two protocols, in the directions that the settings allow.

    Attributes:
        refused: how many announcements could not be read.
    """

    def __init__(
        self,
        connection: Connection,
        log: EventLog,
        replica: Replica,
        registrations: Registrations,
        clock: Clock,
    ) -> None:
        self.refused = 0
        self._connection = connection
        self._log = log
        self._replica = replica
        self._registrations = registrations
        self._clock = clock

    async def listen(self) -> None:
        """Brings what is announced into the stream, unsigned, for ever.

        One agent of the mesh hears each announcement. The stream forgets it after three
        announcements' time, since the next one repeats it; the bucket remembers.
        """
        while True:
            try:
                async for _, payload in self._connection.subscribe_core(slug.SUBJECT, _QUEUE):
                    await self._hear(payload)
            except LogUnavailable:
                await self._clock.sleep(1.0)
            except LogError as error:
                _log.warning("services.announce.v1 is not heard", detail=str(error))
                await self._clock.sleep(_REFUSED_RETRY_S)

    async def speak(self) -> None:
        """Announces this node's services to today's listeners, every minute, for ever."""
        while True:
            now = iso(self._clock.now_ms())
            for held in tuple(self._registrations.held.values()):
                try:
                    await self._connection.publish_core(slug.SUBJECT, slug.write(held.record, now))
                except LogError as error:
                    _log.debug("service not announced", detail=str(error))
                    break
            await self._clock.sleep(_EVERY_S)

    async def _hear(self, payload: bytes) -> None:
        try:
            name, registered = slug.read(payload)
        except RemoteProtocolError as error:
            self.refused += 1
            _log.debug("announcement not read", detail=str(error))
            return
        if any(entry.verified for entry in self._replica.registry.of_service(name)):
            return  # somebody who signs speaks for it, perhaps through this very bridge
        await self._log.publish(
            SealedEvent(subject=InstanceRegistered.subject, payload=registered), ttl_s=_KEPT_S
        )
