"""The prober: asks this node's instances again and again whether they are well, and says what changed."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from pmoves_mesh.agent.health.probes import Probe, ask
from pmoves_mesh.agent.registrations import Held, Registrations
from pmoves_mesh.core.check import PacedCheck, TtlCheck, check_made
from pmoves_mesh.core.doubt import Cause, Doubt
from pmoves_mesh.core.health import Finding, Health, Pace, chance, first_after_s, next_due_s, observe
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.names import HealthStatus
from pmoves_mesh.errors import MeshError
from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

CONCURRENT_MAX: Final = 512
"""So that a thousand instances that all hang do not delay one another: half of them hang at a time."""

_BEAT_S: Final = 0.5
"""The loop wakes at least this often, to see whether it wakes in time."""

_LEAD: Final = 0.01
"""Part of the interval by which a probe may begin too early, with others: few large turns cost less."""


@dataclass(slots=True, eq=False)
class _Check:
    """An instance that is probed.

    Attributes:
        made: what is asked, and how often.
        due_s: when its next probe is due, or its present one was.
        drawn: how many numbers were drawn for it.
        dropped: set once it is no longer probed, or another check took its place.
    """

    key: InstanceKey
    made: PacedCheck
    health: Health
    due_s: float = 0.0
    drawn: int = 0
    dropped: bool = False


@dataclass(slots=True, order=True)
class _Turn:
    """A check's place in the schedule."""

    due_s: float
    number: int
    check: _Check = field(compare=False)


class Prober:
    """Probes what this node holds, and nothing else.

    An instance is probed while it has a check, or a `health_url`. One that asks something else starts
    its health anew. What an earlier run of this agent found holds until probes say otherwise.
    """

    def __init__(
        self,
        registrations: Registrations,
        clock: Clock,
        probe: Probe,
        *,
        seed: str,
        pace: Pace | None = None,
        observe: Callable[[str, bool | None, float], None] = lambda *_: None,
    ) -> None:
        """Takes what to probe, and how.

        Args:
            registrations: what this node holds.
            clock: the time.
            probe: asks one instance.
            seed: sets apart when this node's probes are due from when others' are.
            pace: how often, how long, and how many findings change a status, whatever the checks say;
                None for what each of them says.
            observe: takes note of the type of each check that was made, what it found, and the seconds
                that it took.
        """
        self._registrations = registrations
        self._clock = clock
        self._probe = probe
        self._seed = seed
        self._pace = pace
        self._observe = observe
        self._checks: dict[InstanceKey, _Check] = {}
        self._schedule: list[_Turn] = []
        self._turns = 0
        self._running = 0
        self._changed: set[InstanceKey] = set()
        self._wake = asyncio.Event()
        self._doubt = Doubt()
        self._doubted: Cause | None = None
        self._wakes_by_s = clock.monotonic_s()

    @property
    def starved(self) -> Cause | None:
        """Why failures do not count now, since it may be this agent that fails; None if they do."""
        return self._doubt.cause(self._clock.monotonic_s())

    @property
    def probed(self) -> int:
        """How many instances are probed."""
        return len(self._checks)

    async def run(self) -> None:
        """Probes for ever; what cannot be stated now is stated after a later probe."""
        self._wakes_by_s = self._clock.monotonic_s()
        with self._registrations.watched(self._notice):
            self._changed.update(self._registrations.held)
            async with asyncio.TaskGroup() as group:
                while True:
                    self._take_up()
                    self._begin_due(group)
                    await self._wait()

    def _notice(self, key: InstanceKey) -> None:
        self._changed.add(key)
        self._wake.set()

    # The schedule

    def _take_up(self) -> None:
        """Takes up what changed among the registrations."""
        fresh = []
        for key in self._changed:
            held = self._registrations.held.get(key)
            made = self._made(held)
            check = self._checks.get(key)
            if check is not None and check.made != made:
                check.dropped = True
                self._doubt.forget(key)
                del self._checks[key]
            if held is not None and made is not None and key not in self._checks:
                fresh.append(_Check(key, made, Health(held.record.health_status)))
        self._changed.clear()
        now_s = self._clock.monotonic_s()
        for check in fresh:
            self._checks[check.key] = check
            pace = self._pace_of(check)
            self._doubt.expect(check.key, pace)
            check.due_s = now_s + first_after_s(pace.interval_s, len(fresh), self._draw(check))
            self._schedule_turn(check)

    @staticmethod
    def _made(held: Held | None) -> PacedCheck | None:
        made = None if held is None else check_made(held.check, held.record)
        return None if isinstance(made, TtlCheck) else made

    def _pace_of(self, check: _Check) -> Pace:
        return self._pace or check.made.pace

    def _schedule_turn(self, check: _Check) -> None:
        self._turns += 1
        heapq.heappush(self._schedule, _Turn(check.due_s, self._turns, check))

    def _draw(self, check: _Check) -> float:
        check.drawn += 1
        return chance(self._seed, *check.key, check.drawn)

    def _begin_due(self, group: asyncio.TaskGroup) -> None:
        now_s = self._clock.monotonic_s()
        while self._schedule and self._running < CONCURRENT_MAX:
            check = self._schedule[0].check
            if self._schedule[0].due_s > now_s + _LEAD * self._pace_of(check).interval_s:
                break
            heapq.heappop(self._schedule)
            if not check.dropped:
                self._running += 1
                group.create_task(self._check(check))

    async def _wait(self) -> None:
        """Waits until a probe is due, something changed, or the next beat; sees how late it is then.

        Where nothing is probed there is nothing that could be late, and so no beat.
        """
        if not self._checks:
            self._wakes_by_s = math.inf
            await self._wake.wait()
            self._wake.clear()
            self._wakes_by_s = self._clock.monotonic_s()
            return
        now_s = self._clock.monotonic_s()
        pause_s = _BEAT_S
        if self._schedule and self._running < CONCURRENT_MAX:
            pause_s = max(0.0, min(pause_s, self._schedule[0].due_s - now_s))
        self._wakes_by_s = now_s + pause_s
        try:
            async with asyncio.timeout(pause_s):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        self._look_at_time()

    # One probe

    async def _check(self, check: _Check) -> None:
        """Probes an instance, judges what was found, and sets the time of its next probe."""
        try:
            held = self._registrations.held.get(check.key)
            if held is None or check.dropped:
                return
            began_s = self._clock.monotonic_s()
            finding = await ask(self._probe, held.record, check.made, self._pace_of(check).timeout_s)
            kind = str(check.made.__struct_config__.tag)
            self._observe(kind, finding.passed, self._clock.monotonic_s() - began_s)
            if not check.dropped:
                await self._judge(check, finding)
        finally:
            self._running -= 1
        if not check.dropped:
            now_s = self._clock.monotonic_s()
            interval_s = self._pace_of(check).interval_s
            check.due_s = next_due_s(check.due_s, now_s, interval_s, self._draw(check))
            self._schedule_turn(check)
            if self._running == CONCURRENT_MAX - 1 or self._schedule[0].check is check:
                self._wake.set()

    async def _judge(self, check: _Check, finding: Finding) -> None:
        now_s = self._look_at_time()
        pace = self._pace_of(check)
        self._doubt.found(check.key, finding, now_s, pace)
        self._say_if_starved(now_s)
        if finding.passed is None:
            check.health = Health()
        elif finding.passed or self._doubt.cause(now_s) is None:
            check.health = observe(check.health, passed=finding.passed, rise=pace.rise, fall=pace.fall)
        held = self._registrations.held.get(check.key)
        if held is None:
            return
        record = held.record
        # What was not stated because the disk was full still differs after the next probe.
        news = record.health_status != check.health.status
        if news or (finding.passed is None and record.health_output != finding.output):
            await self._state(check, check.health.status, finding.output)

    async def _state(self, check: _Check, status: HealthStatus, output: str) -> None:
        said = {"service": check.key.service, "id": check.key.id, "status": status, "output": output}
        try:
            stated = await self._registrations.state_health(check.key, check.made, status, output)
        except MeshError as error:
            _log.warning("health not stated", **said, detail=str(error))
        else:
            if stated is not None:
                _log.info("health changed", **said)

    # Whether to believe it

    def _look_at_time(self) -> float:
        """Returns the time now, having seen whether the loop is past the time at which it was to wake."""
        now_s = self._clock.monotonic_s()
        self._doubt.late(now_s - self._wakes_by_s, now_s)
        self._say_if_starved(now_s)
        return now_s

    def _say_if_starved(self, now_s: float) -> None:
        cause = self._doubt.cause(now_s)
        if cause == self._doubted:
            return
        self._doubted = cause
        if cause is None:
            _log.info("probes that fail count again")
        else:
            _log.warning("probes that fail do not count", cause=cause, probed=len(self._checks))
