"""TTL checks: services that report by themselves that they are well, and what their silence means."""

from __future__ import annotations

import asyncio
import heapq
from dataclasses import dataclass
from typing import Final

import structlog

from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.core.check import TtlCheck, check_made
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.names import HealthStatus
from pmoves_mesh.errors import InvalidFieldError, MeshError
from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

LATE_MAX_S: Final = 0.25
_RETRY_S: Final = 1.0
_BEAT_S: Final = 60.0


@dataclass(slots=True)
class _Awaited:
    """An instance that has to report.

    Attributes:
        due_s: when its next report is due at the latest.
        heard_s: when it reported last, or when its time began.
        spared: whether it was given a second time since its last report, because this agent was late.
    """

    check: TtlCheck
    due_s: float
    heard_s: float
    spared: bool = False


class TtlWatch:
    """Implements `ports.Reporter`: takes in reports, and states that an instance is unhealthy without.

    A report counts at once, and so does its absence; there is no rise and no fall. After the start of
    this agent every instance has its whole time again. An agent that was held up itself has perhaps
    not read what it was sent: it gives one more time before it condemns anybody.
    """

    def __init__(self, registrations: Registrations, clock: Clock) -> None:
        self._registrations = registrations
        self._clock = clock
        self._awaited: dict[InstanceKey, _Awaited] = {}
        self._due: list[tuple[float, InstanceKey]] = []
        self._changed: set[InstanceKey] = set()
        self._wake = asyncio.Event()

    async def report(
        self,
        service: str,
        status: HealthStatus,
        output: str,
        *,
        instance_id: str | None = None,
        wait: bool = True,
    ) -> tuple[InstanceKey, int | None]:
        """Takes in what an instance says of itself; see `ports.Reporter`."""
        key = self._reporting(self._registrations.own(service, instance_id=instance_id))
        held = await self._registrations.durable(key)
        check = None if held is None else held.check
        if held is None or not isinstance(check, TtlCheck):
            raise InvalidFieldError("id", "the instance went, or reports no more")
        self._await(key, check)
        if held.record.health_status == status:
            return key, None
        stated = await self._registrations.state_health(key, check, status, output)
        if stated is None:
            return key, None
        _log.info("health changed", service=key.service, id=key.id, status=status, output=output)
        return key, await self._registrations.settled(stated, wait=wait)

    async def run(self) -> None:
        """Watches for reports that do not come, for ever."""
        with self._registrations.watched(self._notice):
            self._changed.update(self._registrations.held)
            while True:
                self._take_up()
                late_s = await self._wait()
                await self._condemn_due(late=late_s > LATE_MAX_S)

    def heard_s(self, key: InstanceKey) -> float | None:
        """Returns when an instance reported last, monotonic seconds; None if it does not report."""
        awaited = self._awaited.get(key)
        return None if awaited is None else awaited.heard_s

    def _reporting(self, keys: list[InstanceKey]) -> InstanceKey:
        """Returns the one of these instances that reports by itself.

        Raises:
            InvalidFieldError: if there is none, or several.
        """
        held = self._registrations.held
        found = [key for key in keys if isinstance(held[key].check, TtlCheck)]
        if not found:
            raise InvalidFieldError(
                "id", f"{keys[0].service} has no check of type ttl, so it does not report"
            )
        if len(found) > 1:
            raise InvalidFieldError("id", f"is missing: {len(found)} instances report")
        return found[0]

    # What is awaited

    def _notice(self, key: InstanceKey) -> None:
        self._changed.add(key)
        self._wake.set()

    def _take_up(self) -> None:
        """Takes up what changed among the registrations."""
        for key in self._changed:
            held = self._registrations.held.get(key)
            check = None if held is None else check_made(held.check, held.record)
            if not isinstance(check, TtlCheck):
                self._awaited.pop(key, None)
            elif key not in self._awaited or self._awaited[key].check != check:
                self._await(key, check)
        self._changed.clear()

    def _await(self, key: InstanceKey, check: TtlCheck) -> None:
        now_s = self._clock.monotonic_s()
        due_s = now_s + check.ttl_s
        known = self._awaited.get(key)
        self._awaited[key] = _Awaited(check, due_s, now_s)
        # One place in the queue is enough: what is due later by now is put back when its turn comes.
        if known is None or due_s < known.due_s:
            heapq.heappush(self._due, (due_s, key))
            self._wake.set()

    async def _wait(self) -> float:
        """Waits until somebody is due or something changed; returns by how many seconds it woke too late."""
        now_s = self._clock.monotonic_s()
        until_s = max(now_s, self._due[0][0] if self._due else now_s + _BEAT_S)
        try:
            async with asyncio.timeout(until_s - now_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        return self._clock.monotonic_s() - until_s

    async def _condemn_due(self, *, late: bool) -> None:
        now_s = self._clock.monotonic_s()
        while self._due and self._due[0][0] <= now_s:
            _, key = heapq.heappop(self._due)
            awaited = self._awaited.get(key)
            if awaited is None:
                continue
            if awaited.due_s <= now_s:
                if late and not awaited.spared:
                    awaited.spared = True
                    awaited.due_s = now_s + awaited.check.ttl_s
                else:
                    awaited.due_s = now_s + await self._condemn(key, awaited.check)
            heapq.heappush(self._due, (awaited.due_s, key))

    async def _condemn(self, key: InstanceKey, check: TtlCheck) -> float:
        """States that an instance is silent; returns after how many seconds to look at it again."""
        held = self._registrations.held.get(key)
        if held is None or held.record.health_status == "unhealthy":
            return check.ttl_s
        output = f"no report for {check.ttl_s:g} s"
        try:
            stated = await self._registrations.state_health(key, check, "unhealthy", output)
        except MeshError as error:
            _log.warning("health not stated", service=key.service, id=key.id, detail=str(error))
            return _RETRY_S
        if stated is not None:
            _log.info("health changed", service=key.service, id=key.id, status="unhealthy", output=output)
        return check.ttl_s
