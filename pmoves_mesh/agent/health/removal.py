"""Removal: takes instances off this node that stayed unhealthy for as long as their check allows.

A process that was killed cannot deregister itself. What is removed here and lives after all registers anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.core.check import TtlCheck, check_made
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.errors import MeshError
from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

_BEAT_S: Final = 0.5
_LATE_S: Final = 2.0


class Removal:
    """Watches the instances that are unhealthy, and whose check says for how long they may be."""

    def __init__(
        self,
        registrations: Registrations,
        heard_s: Callable[[InstanceKey], float | None],
        clock: Clock,
    ) -> None:
        """Takes the watch over reports as well.

        Args:
            registrations: the instances.
            heard_s: returns when an instance last reported, monotonic seconds; None if it never did.
            clock: the time.
        """
        self._registrations = registrations
        self._heard_s = heard_s
        self._clock = clock
        self._unhealthy: dict[InstanceKey, float] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Removes what stayed unhealthy too long, for ever."""
        with self._registrations.watched(self._notice):
            for key in tuple(self._registrations.held):
                self._notice(key)
            while True:
                await self._wake.wait()
                begin_s = self._clock.monotonic_s()
                await self._clock.sleep(_BEAT_S)
                if self._clock.monotonic_s() - begin_s > _LATE_S:
                    # This agent was held up, and has perhaps not read what it was sent.
                    self._unhealthy = dict.fromkeys(self._unhealthy, self._clock.monotonic_s())
                for key in tuple(self._unhealthy):
                    if self._is_due(key):
                        await self._remove(key)
                if not self._unhealthy:
                    self._wake.clear()

    def _notice(self, key: InstanceKey) -> None:
        if self._allowed_s(key) is None:
            self._unhealthy.pop(key, None)
        else:
            self._unhealthy.setdefault(key, self._clock.monotonic_s())
            self._wake.set()

    def _allowed_s(self, key: InstanceKey) -> float | None:
        """Returns for how long an instance may go on as it is; None for as long as it likes."""
        held = self._registrations.held.get(key)
        if held is None or held.record.health_status != "unhealthy":
            return None
        check = check_made(held.check, held.record)
        return None if check is None else check.remove_after_s

    def _is_due(self, key: InstanceKey) -> bool:
        allowed_s = self._allowed_s(key)
        if allowed_s is None:
            return False
        since_s = self._unhealthy[key]
        if isinstance(self._registrations.held[key].check, TtlCheck):
            # Whoever says that it is unhealthy is alive.
            since_s = max(since_s, self._heard_s(key) or since_s)
        return self._clock.monotonic_s() - since_s >= allowed_s

    async def _remove(self, key: InstanceKey) -> None:
        try:
            await self._registrations.deregister(key.service, instance_id=key.id, wait=False)
        except MeshError as error:
            _log.warning("not removed", service=key.service, id=key.id, detail=str(error))
            self._unhealthy[key] = self._clock.monotonic_s()
        else:
            _log.info("removed, since it stayed unhealthy", service=key.service, id=key.id)
