"""A simulated host's way to the mesh: its connection, and a replica that follows the stream."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from chronicle import Chronicle, ChronicledBroker
from law import Law
from trust import Identity, SimTrust, identity
from virtual_time import SimClock

from pmoves_mesh.agent.follower import Follower, Upstream
from pmoves_mesh.log.memory import Faults, MemoryBucket, MemoryClient, MemoryLog, MemoryWorkQueue
from pmoves_mesh.log.topology import IDENTITIES, LEASES, REGISTRY
from pmoves_mesh.ports import LogBounds
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier

if TYPE_CHECKING:
    from host import Host

_NEWCOMER: Final = "newcomer"


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """What all hosts share.

    Attributes:
        announce_s: between a node's announcements, in the smallest mesh.
        reconcile_s: between two comparisons of the bucket.
        deregister_after_s: of every instance.
        hosts: of the mesh, those that are gone included.
    """

    seed: int
    broker: ChronicledBroker
    chronicle: Chronicle
    announce_s: int
    reconcile_s: int = 10
    lease_ttl_s: int = 10
    deregister_after_s: float = 20.0
    accept_unsigned: bool = False
    law: Law = field(default_factory=Law)
    hosts: list[Host] = field(default_factory=list)


class Reader:
    """A connection to the broker, and a replica that can follow its stream."""

    def __init__(
        self,
        mesh: Mesh,
        clock: SimClock,
        rng: random.Random,
        faults: Faults | None = None,
        roots: tuple[int, ...] | None = None,
        who: Callable[[], Identity] | None = None,
    ) -> None:
        """Takes what it needs.

        Args:
            mesh: what it reads.
            clock: the host's.
            rng: for what happens on the way.
            faults: on the way.
            roots: the CAs that the host knows; by default those of today.
            who: gives who the host is; by default somebody whom nobody knows yet.
        """
        self.client = MemoryClient(mesh.broker, rng, faults)
        self.log = MemoryLog(self.client)
        self.bucket = MemoryBucket(self.client, REGISTRY)
        self.identities = MemoryBucket(self.client, IDENTITIES)
        self.leases = MemoryBucket(self.client, LEASES)
        self.queue = MemoryWorkQueue(self.client)
        trust = SimTrust(mesh.law.roots if roots is None else roots)
        verifier = Verifier(trust, self.identities, clock, accept_unsigned=mesh.accept_unsigned)
        self.replica = Replica(verifier, self.log, self.bucket, clock)
        upstream = Upstream(
            connected=self.connected,
            ensure=self._ensure,
            log=self.log,
            registry=self.bucket,
            identities=self.identities,
            queue=self.queue,
        )
        newcomer = identity(_NEWCOMER, mesh.law.roots[0])
        self.follower = Follower(upstream, self.replica, who or (lambda: newcomer), clock)

    async def connected(self) -> None:
        """Waits until there is a connection."""
        with self.client.broker.listener() as news:
            while not self.client.connected:
                news.clear()
                await news.wait()

    async def _ensure(self) -> LogBounds:
        await asyncio.sleep(0)  # a network would take its time
        return await self.log.bounds()
