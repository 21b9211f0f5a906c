"""The nemesis: breaks what can break, at random, and mends it after a while."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final

from expectations import Expectations
from host import Agent, Host
from reader import Mesh
from virtual_time import ended

from pmoves_mesh.core import envelope
from pmoves_mesh.core.event import NodeLost
from pmoves_mesh.errors import LogUnavailable

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS

FAULTS: Final = (
    "crash",
    "lose_disk",
    "stop",
    "cut",
    "cut_everybody",
    "lose_messages",
    "delay_messages",
    "repeat_messages",
    "set_clock",
    "let_clock_drift",
    "slow_disk",
    "stall",
    "declare_lost",
    "age",
)
Fault = Callable[[Host], Coroutine[Any, Any, None]]


class Nemesis:
    """Does harm of a few kinds to the hosts of a mesh; which kinds, the seed decides.

    A simulation with few kinds of faults goes deeper into what those can do together than one
    that has them all.

    Attributes:
        kinds: of faults that it chose.
        stopped: the hosts whose agents were stopped on purpose, and not started again.
    """

    def __init__(self, mesh: Mesh, hosts: Sequence[Host], expectations: dict[str, Expectations]) -> None:
        self._mesh = mesh
        self._hosts = hosts
        self._expectations = expectations
        self._rng = random.Random(f"{mesh.seed} nemesis")
        self.kinds: Final = self._rng.sample(FAULTS, self._rng.randint(1, len(FAULTS)))
        self.stopped: Final[set[str]] = set()
        self._pause_s = self._rng.uniform(1, 20)

    async def run(self) -> None:
        """Does harm for ever."""
        harm: list[asyncio.Task[None]] = []
        try:
            while True:
                await asyncio.sleep(self._rng.expovariate(1 / self._pause_s))
                kind, host = self._rng.choice(self.kinds), self._rng.choice(self._hosts)
                fault: Fault = getattr(self, f"_{kind}")
                self._mesh.chronicle.happened[kind] += 1
                harm.append(asyncio.create_task(fault(host)))
        finally:
            await ended(harm)

    async def heal(self) -> None:
        """Mends everything but the clocks, and starts every agent but some that left, though not all."""
        for host in self._hosts:
            host.heal()
            await host.stopped()
            left = host.name in self.stopped and not host.disk.journal.outbox_depth
            if not host.is_up and not (left and host is not self._hosts[0] and self._rng.random() < 0.5):
                self._start(host)

    async def harm_once_more(self) -> None:
        """Does what a mesh must stand even when nothing happens after it."""
        await asyncio.sleep(self._while_s(2))
        if "declare_lost" in self.kinds:
            await self._declare_lost(self._rng.choice(self._hosts))

    def _while_s(self, mean_s: float) -> float:
        return self._rng.expovariate(1 / mean_s)

    async def _crash(self, host: Host) -> None:
        if host.is_up:
            host.crash()
            await self._start_later(host)

    async def _lose_disk(self, host: Host) -> None:
        if host.is_up:
            host.crash(disk_lost=True)
            self._expectations[host.name].forget()
            if self._rng.random() < 0.3:
                host.clock.offset_ms -= self._rng.randint(0, _HOUR_MS)  # nothing tells it the time
            await self._start_later(host)

    async def _stop(self, host: Host) -> None:
        if host.is_up:
            host.stop()
            self.stopped.add(host.name)
            await self._start_later(host)

    async def _start_later(self, host: Host) -> None:
        await asyncio.sleep(self._while_s(10))
        if not host.is_up:
            self._start(host)

    def _start(self, host: Host) -> None:
        self.stopped.discard(host.name)
        host.start()

    async def _cut(self, host: Host) -> None:
        host.cut()
        await asyncio.sleep(self._while_s(15))
        host.mend()

    async def _cut_everybody(self, _host: Host) -> None:
        for host in self._hosts:
            host.cut()
        await asyncio.sleep(self._while_s(8))
        for host in self._hosts:
            host.mend()

    async def _lose_messages(self, host: Host) -> None:
        host.faults.drop = self._rng.uniform(0, 0.5)
        self._tell(host, f"loses {host.faults.drop:.0%} of its messages")
        await asyncio.sleep(self._while_s(15))
        host.faults.drop = 0.0

    async def _delay_messages(self, host: Host) -> None:
        host.faults.delay_max_s = self._rng.choice((0.01, 0.2, 3.0))
        self._tell(host, f"is up to {host.faults.delay_max_s} s away")
        await asyncio.sleep(self._while_s(15))
        host.faults.delay_max_s = host.usual.delay_max_s

    async def _repeat_messages(self, host: Host) -> None:
        host.faults.duplicate = self._rng.uniform(0, 0.5)
        self._tell(host, f"repeats {host.faults.duplicate:.0%} of its messages")
        await asyncio.sleep(self._while_s(15))
        host.faults.duplicate = 0.0

    async def _set_clock(self, host: Host) -> None:
        span_ms = self._rng.choice((1000, 60_000, _HOUR_MS, 3 * _DAY_MS))
        host.clock.offset_ms += self._rng.randint(-span_ms, span_ms)
        self._tell(host, f"has its clock set to {host.clock.offset_ms} ms off")

    async def _let_clock_drift(self, host: Host) -> None:
        host.clock.drift = self._rng.uniform(-0.1, 0.1)
        self._tell(host, f"has a clock that gains {host.clock.drift:.1%}")

    async def _slow_disk(self, host: Host) -> None:
        host.disk.latency_max_s = self._rng.choice((0.02, 0.5, 3.0))
        self._tell(host, f"needs up to {host.disk.latency_max_s} s for its disk")
        await asyncio.sleep(self._while_s(15))
        host.disk.latency_max_s = 0.002

    async def _stall(self, host: Host) -> None:
        host.stall(self._while_s(20))

    async def _age(self, _host: Host) -> None:
        """Has the stream forget some of what the bucket and every running replica have."""
        running = [host.agent.replica.position for host in self._hosts if host.agent is not None]
        self._mesh.broker.forget(self._rng.random(), min(running, default=0))

    async def _declare_lost(self, host: Host) -> None:
        """Has a witness declare the host lost, rightly or wrongly."""
        witness = self._rng.choice([other for other in self._hosts if other is not host])

        async def declare(agent: Agent) -> None:
            node = agent.replica.registry.nodes.get(host.name)
            if node is None or node.latest.incarnation < 1:
                return
            stamp = node.latest
            lost = NodeLost(
                mesh=agent.author.mesh,
                node=host.name,
                incarnation=stamp.incarnation,
                revision=stamp.revision,
                witness=witness.name,
            )
            self._tell(host, f"is declared lost at {stamp.revision} by {witness.name}")
            try:
                await agent.reader.log.publish(envelope.seal(lost, witness.identity))
            except LogUnavailable:
                self._tell(witness, "does not know whether it was heard")

        ended = await witness.call(declare)
        if ended is not None and not ended.cancelled():
            ended.result()

    def _tell(self, host: Host, what: str) -> None:
        self._mesh.chronicle.note(f"{host.name} {what}")
