"""A follower on a memory log of its own, and who speaks there."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from builders import Authority, registered
from http_support import PinnedClock

from pmoves_mesh.agent.follower import Follower, Upstream
from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.event import Event
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog, MemoryWorkQueue
from pmoves_mesh.ports import BucketEntry
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier

DEADLINE_S: Final = 10.0


@dataclass(frozen=True)
class Shown:
    """Whom the mesh sees."""

    fingerprint: str
    certificate_der: bytes


class CountedBucket(MemoryBucket):
    """A bucket that knows how often all of it was read."""

    read = 0

    async def load(self, pattern: str = ">") -> AsyncIterator[BucketEntry]:
        self.read += pattern == ">"
        async for entry in super().load(pattern):
            yield entry


class Joining:
    """A follower on a broker of its own."""

    def __init__(self) -> None:
        self.clock = PinnedClock()
        self.authority = Authority()
        self.alpha = self.authority.identity("alpha")
        self.authority.trust.admit(self.alpha.der)
        self.broker = MemoryBroker(self.clock)
        client = MemoryClient(self.broker, random.Random(1))
        log, identities = MemoryLog(client), MemoryBucket(client, "identities")
        self.bucket = registry = CountedBucket(client, "registry")
        verifier = Verifier(self.authority.trust, identities, self.clock)
        self.replica = Replica(verifier, log, registry, self.clock)
        upstream = Upstream(
            connected=lambda: asyncio.sleep(0),
            ensure=log.bounds,
            log=log,
            registry=registry,
            identities=identities,
            queue=MemoryWorkQueue(client),
        )
        shown = Shown(self.alpha.fingerprint, self.alpha.der)
        self.follower = Follower(upstream, self.replica, lambda: shown, self.clock)

    def publish(self, revision: int) -> int:
        return self.broker.publish(envelope.seal(registered(revision), self.alpha), None)

    async def keep(self, event: Event, position: int) -> None:
        """Has the bucket hold an event, as of a position."""
        sealed = envelope.seal(event, self.alpha)
        record = records.record_of(sealed, event, position=position, time_ms=self.clock.now_ms())
        await self.bucket.put(records.key_of(event), records.encode(record))

    def position(self) -> int:
        """Returns where the replica takes the one instance's record to stand."""
        (entry,) = self.replica.registry.entries()
        return entry.position

    def lose(self, position: int) -> None:
        """Has the stream's limits take an event."""
        del self.broker._messages[position]
        self.broker._positions.remove(position)

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Replica]:
        """Gives the replica once it is current, and follows while the context lasts."""
        task = asyncio.create_task(self.follower.run())
        try:
            assert await self.replica.wait_current(DEADLINE_S)
            yield self.replica
        finally:
            task.cancel()
            await asyncio.wait((task,))
