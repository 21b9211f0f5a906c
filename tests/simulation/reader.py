"""A simulated host's way to the mesh: its connection, and a replica that follows the stream.

It mirrors `agent.link`, which brings in NATS.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from chronicle import Chronicle, ChronicledBroker
from law import Law
from trust import Identity, SimTrust
from virtual_time import SimClock

from pmoves_mesh.core.registry import Registry
from pmoves_mesh.errors import LogUnavailable, SequenceConflict, SequenceGap
from pmoves_mesh.log.memory import Faults, MemoryBucket, MemoryClient, MemoryLog, MemoryWorkQueue
from pmoves_mesh.log.topology import IDENTITIES, LEASES, REGISTRY
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier

_RETRY_S: Final = 0.1


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """What all hosts share.

    Attributes:
        deregister_after_s: of every instance.
        hasty: part of the looks at which a witness takes a lease that it missed for one that ran out.
    """

    seed: int
    broker: ChronicledBroker
    chronicle: Chronicle
    announce_s: float
    lease_ttl_s: int = 10
    deregister_after_s: float = 20.0
    accept_unsigned: bool = False
    hasty: float = 0.0
    law: Law = field(default_factory=Law)


class Reader:
    """A connection to the broker, and a replica that can follow its stream."""

    def __init__(
        self,
        mesh: Mesh,
        clock: SimClock,
        rng: random.Random,
        faults: Faults | None = None,
        roots: tuple[int, ...] | None = None,
    ) -> None:
        self.client = MemoryClient(mesh.broker, rng, faults)
        self.log = MemoryLog(self.client)
        self.bucket = MemoryBucket(self.client, REGISTRY)
        self.identities = MemoryBucket(self.client, IDENTITIES)
        self.leases = MemoryBucket(self.client, LEASES)
        self.queue = MemoryWorkQueue(self.client)
        trust = SimTrust(mesh.law.roots if roots is None else roots)
        verifier = Verifier(trust, self.identities, clock, accept_unsigned=mesh.accept_unsigned)
        self.replica = Replica(verifier, self.log, self.bucket, clock)
        self._clock = clock
        self._joined = asyncio.Event()
        self._broken_off = False

    async def follow(self, identity: Callable[[], Identity] | None = None) -> None:
        """Follows the stream for ever; mirrors `Link.run`."""
        while True:
            await self._connected()
            try:
                if identity is not None:
                    await self.show(identity())
                await self._choose_beginning()
                self._joined.set()
                await self.replica.run()
            except LogUnavailable:
                await self._clock.sleep(_RETRY_S)
            except SequenceGap:
                self._broken_off = True
                await asyncio.sleep(0)  # a network would have taken its time

    async def once_joined(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begins some work once the mesh was joined; mirrors `Link.once_joined`."""
        await self._joined.wait()
        await work()

    async def show(self, identity: Identity) -> None:
        """Lets the mesh see a certificate; mirrors `Link.show`."""
        if await self.identities.get(identity.fingerprint) is None:
            try:
                await self.identities.put(identity.fingerprint, identity.der, expected=0)
            except SequenceConflict:
                return

    async def _connected(self) -> None:
        with self.client.broker.listener() as news:
            while not self.client.connected:
                news.clear()
                await news.wait()

    async def _choose_beginning(self) -> None:
        replica, bounds = self.replica, await self.log.bounds()
        other = replica.stream_id != bounds.stream_id or replica.position > bounds.last
        if replica.stream_id and (other or self._broken_off):
            replica.restore(Registry(), "")
        self._broken_off = False
        replica.stream_id = bounds.stream_id
        if replica.position + 1 < bounds.first or (replica.position == 0 and bounds.last > 0):
            await replica.restore_from_bucket(min(await self.queue.floor(), bounds.last))
