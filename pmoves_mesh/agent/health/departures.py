"""Instances that asked to be deregistered once they have been ill for a while.

Source: Consul's `DeregisterCriticalServiceAfter`; here it is counted in seconds, not in minutes.
"""

from __future__ import annotations

from typing import Final

import structlog

from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.errors import MeshError
from pmoves_mesh.ports import Clock
from pmoves_mesh.views.http.consul.kept import kept_of

_log: Final = structlog.get_logger(__name__)

_LOOK_S: Final = 1.0


class Departures:
    """Deregisters what has been unhealthy for as long as it asked for, one way or another.

    After a start of this agent every instance has its whole time again.
    """

    def __init__(self, registrations: Registrations, clock: Clock) -> None:
        self._registrations = registrations
        self._clock = clock
        self._due_s: Final[dict[InstanceKey, float]] = {}

    async def run(self) -> None:
        """Looks, for ever, who has to go."""
        with self._registrations.watched(self._notice):
            for key in tuple(self._registrations.held):
                self._notice(key)
            while True:
                await self._clock.sleep(_LOOK_S)
                now_s = self._clock.monotonic_s()
                for key in [key for key, due_s in self._due_s.items() if due_s <= now_s]:
                    await self._deregister(key)

    def _notice(self, key: InstanceKey) -> None:
        held = self._registrations.held.get(key)
        if held is None or held.record.health_status != "unhealthy":
            self._due_s.pop(key, None)
            return
        kept = kept_of(held.record)
        if kept is None or kept.critical_after_s <= 0:
            self._due_s.pop(key, None)
        else:
            self._due_s.setdefault(key, self._clock.monotonic_s() + kept.critical_after_s)

    async def _deregister(self, key: InstanceKey) -> None:
        self._due_s.pop(key, None)
        try:
            await self._registrations.deregister(key.service, instance_id=key.id, wait=False)
        except MeshError as error:
            _log.warning("an ill instance is not deregistered yet", service=key.service, detail=str(error))
            self._notice(key)
        else:
            _log.info("an instance was ill for too long", service=key.service, id=key.id)
