"""The nemesis: breaks what can break, at random, and mends it after a while."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Coroutine
from typing import Any, Final

from expectations import Expectations
from host import Agent, Host
from operators import DECREES, Operators
from reader import Mesh
from strangers import WORDS, Strangers
from virtual_time import ended
from witness import expired, lost, sealed

from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.log.topology import LEASES

_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_YEAR_MS: Final = 365 * _DAY_MS
_SET_RIGHT_MS: Final = 10 * _DAY_MS
_HOSTS_MAX: Final = 20

ASKED_FOR: Final = tuple(filter(None, os.environ.get("SIM_FAULTS", "").split(",")))
"""Kinds of faults that every simulation has, if somebody looks for what they do."""

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
    "declare_expired",
    "age",
    "truncate",
    "remake_stream",
    "restore_stream",
    "vanish",
    "copy",
    "restart_server",
    "set_clock_by_years",
    *DECREES,
    *WORDS,
)
_REPLACING: Final = frozenset({"truncate", "remake_stream", "restore_stream"})
Fault = Callable[[Host], Coroutine[Any, Any, None]]


class Nemesis:
    """Does harm of a few kinds to the hosts of a mesh; which kinds, the seed decides.

    A simulation with few kinds of faults goes deeper into what those can do together than one
    that has them all.

    Attributes:
        kinds: of faults that it chose.
        stopped: the hosts whose agents were stopped on purpose, and not started again.
    """

    def __init__(self, mesh: Mesh, hosts: list[Host], expectations: dict[str, Expectations]) -> None:
        self._mesh = mesh
        self._hosts = hosts
        self._expectations = expectations
        self._rng = random.Random(f"{mesh.seed} nemesis")
        self.kinds = self._rng.sample(FAULTS, self._rng.choice((1, 3, 6, 12, len(FAULTS))))
        if not _REPLACING.isdisjoint(self.kinds):
            # What a rotation in a stream that is gone leaves of the CAs is for tests of its own.
            self.kinds = [kind for kind in self.kinds if kind != "rotate"]
        self.kinds += [kind for kind in ASKED_FOR if kind not in self.kinds]
        self.stopped: Final[set[str]] = set()
        self._pause_s = self._rng.uniform(0.7, 14)
        self._operators = Operators(mesh, hosts, hosts[0].usual)
        self._strangers = Strangers(mesh, hosts[0].usual)

    async def run(self) -> None:
        """Does harm for ever."""
        harm: list[asyncio.Task[None]] = []
        try:
            while True:
                await asyncio.sleep(self._rng.expovariate(1 / self._pause_s))
                kind, host = self._rng.choice(self.kinds), self._rng.choice(self._hosts)
                if not host.vanished:
                    self._mesh.chronicle.happened[kind] += 1
                    harm.append(asyncio.create_task(self._fault(kind)(host)))
        finally:
            await ended(harm)

    def _fault(self, kind: str) -> Fault:
        whose = self._operators if kind in DECREES else self._strangers if kind in WORDS else self
        return getattr(whose, kind if whose is not self else f"_{kind}")  # type: ignore[no-any-return]

    async def heal(self) -> None:
        """Mends everything but clocks that are off by days at most; those who left may stay away."""
        for host in self._hosts:
            host.heal()
            if abs(host.clock.offset_ms) > _SET_RIGHT_MS:
                host.clock.offset_ms = 0
            await host.stopped()
            if host.vanished or host.was_refused:
                continue
            await self._operators.admit(host)
            left = host.label in self.stopped and not host.disk.journal.outbox_depth
            spared = host is self._hosts[0] or host.name in self._mesh.law.cloned
            if not host.is_up and not (left and not spared and self._rng.random() < 0.5):
                self._start(host)

    async def harm_once_more(self) -> None:
        """Does what a mesh must stand even when nothing happens after it."""
        await asyncio.sleep(self._while_s(2))
        host = self._rng.choice([host for host in self._hosts if not host.vanished])
        for kind in ("restart_server", "declare_lost", "declare_expired"):
            if kind in self.kinds:
                await self._fault(kind)(host)

    def _while_s(self, mean_s: float) -> float:
        return self._rng.expovariate(1 / mean_s)

    async def _crash(self, host: Host) -> None:
        if host.is_up:
            host.crash()
            await self._start_later(host)

    async def _lose_disk(self, host: Host) -> None:
        if host.is_up:
            host.crash(disk_lost=True)
            self._expectations[host.label].forget()
            self._mesh.law.rejoined.add(host.label)
            if self._rng.random() < 0.3 and host.name not in self._mesh.law.cloned:
                host.was_set_back = True
                host.clock.offset_ms -= self._rng.randint(0, _HOUR_MS)  # nothing tells it the time
            await self._start_later(host)

    async def _stop(self, host: Host) -> None:
        if host.is_up:
            host.stop()
            self.stopped.add(host.label)
            await self._start_later(host)

    async def _start_later(self, host: Host) -> None:
        await asyncio.sleep(self._while_s(10))
        if not host.is_up and not host.vanished and not host.was_refused:
            self._start(host)

    async def _vanish(self, host: Host) -> None:
        """Has a host go for good; one is enough, and those that were copied are followed to their end."""
        others = [other for other in self._hosts if other is not host and not other.vanished]
        if len(others) > 1 and host.name not in self._mesh.law.cloned and host is not self._hosts[0]:
            if host.is_up:
                host.crash()
            host.vanished = True
            self._mesh.law.vanished.add(host.name)

    async def _copy(self, host: Host) -> None:
        """Has a host's disk copied to another one, whose agent runs with the same identity."""
        alike = sum(other.name == host.name for other in self._hosts)
        if (
            alike > 2
            or host.was_set_back
            or host.was_refused
            or host.vanished
            or len(self._hosts) > _HOSTS_MAX
        ):
            return
        self._mesh.law.cloned.add(host.name)
        other = Host(self._mesh, host.name, host.usual, copied=host)
        self._expectations[other.label] = self._expectations[host.label].copy(other)
        self._hosts.append(other)
        other.start()

    async def _restart_server(self, _host: Host) -> None:
        """Has the server lose its connections, and what it kept in memory."""
        self._mesh.chronicle.note("the server restarts")
        self._mesh.broker.lose(LEASES)
        for host in self._hosts:
            host.lose_connection()

    async def _remake_stream(self, _host: Host) -> None:
        if self._may_lose_stream():
            self._mesh.chronicle.note("the stream is made anew")
            self._mesh.broker.reset()

    async def _restore_stream(self, _host: Host) -> None:
        """Takes a backup of the stream, and has it restored after a while."""
        backup = self._mesh.broker.backup()
        await asyncio.sleep(self._while_s(15))
        if self._may_lose_stream():
            self._mesh.chronicle.note(f"the stream is restored as it was at {backup.last}")
            self._mesh.broker.restore(backup)

    def _may_lose_stream(self) -> bool:
        """Returns whether nothing is in the stream alone that nobody could say again: an operator's word."""
        law = self._mesh.law
        if law.decreed > self._mesh.broker.consumer.floor():
            return False
        law.begun_anew, law.decreed = True, 0
        return True

    def _start(self, host: Host) -> None:
        self.stopped.discard(host.label)
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

    async def _set_clock_by_years(self, host: Host) -> None:
        host.clock.offset_ms += self._rng.randint(-30, 60) * _YEAR_MS
        # Nobody believes a clock that is ahead by a century.
        host.clock.offset_ms = min(max(host.clock.offset_ms, -40 * _YEAR_MS), 90 * _YEAR_MS)
        self._tell(host, f"has its clock set to {host.clock.offset_ms} ms off")
        await asyncio.sleep(self._while_s(15))
        host.clock.offset_ms = 0

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

    async def _truncate(self, _host: Host) -> None:
        """Has the stream's limits take its oldest events, whoever still needs them."""
        unread = self._rng.random() >= 0.7 and self._may_lose_stream()
        self._mesh.broker.forget(self._rng.random(), unread=unread)

    async def _declare_lost(self, host: Host) -> None:
        """Has a witness declare the host lost, rightly or wrongly."""
        await self._declare(host, expires=False)

    async def _declare_expired(self, host: Host) -> None:
        """Has a witness remove one of the host's instances, rightly or wrongly."""
        await self._declare(host, expires=True)

    async def _declare(self, host: Host, *, expires: bool) -> None:
        others = [other for other in self._hosts if other.name != host.name]
        witness = self._rng.choice(others)

        async def declare(agent: Agent) -> None:
            node = agent.replica.registry.nodes.get(host.name)
            if node is None or node.latest.incarnation < 1 or (expires and not node.entries):
                return
            key = self._rng.choice([*node.entries]) if expires else None
            said = expired(node, key.service, key.id, witness.name) if key else lost(node, witness.name)
            self._tell(host, f"is declared {'to lack ' + key.service if key else 'lost'} by {witness.label}")
            try:
                if await agent.reader.identities.get(agent.author.identity.fingerprint) is None:
                    return  # it has not joined yet
                await agent.reader.log.publish(sealed(said, agent))
            except LogUnavailable:
                self._tell(witness, "does not know whether it was heard")

        ended = await witness.call(declare)
        if ended is not None and not ended.cancelled():
            ended.result()

    def _tell(self, host: Host, what: str) -> None:
        self._mesh.chronicle.note(f"{host.label} {what}")
