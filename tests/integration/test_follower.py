"""The follower against the memory log: where it has its replica begin."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from builders import Authority, registered
from http_support import PinnedClock

from pmoves_mesh.agent.follower import Follower, Upstream
from pmoves_mesh.core import envelope, records
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog, MemoryWorkQueue
from pmoves_mesh.ports import BucketEntry
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier

DEADLINE_S = 10.0


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

    async def materialise(self, revision: int, position: int) -> None:
        event = registered(revision)
        sealed = envelope.seal(event, self.alpha)
        record = records.record_of(sealed, event, position=position, time_ms=self.clock.now_ms())
        await self.bucket.put(records.key_of(event), records.encode(record))

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follows the stream while the context lasts, from when the replica is current."""
        following = asyncio.create_task(self.follower.run())
        try:
            assert await self.replica.wait_current(DEADLINE_S)
            yield
        finally:
            following.cancel()
            await asyncio.wait((following,))

    def position(self) -> int:
        """Returns where the replica takes the instance's record to stand."""
        (entry,) = self.replica.registry.entries()
        return entry.position

    def lose(self, position: int) -> None:
        """Has the stream's limits take an event."""
        del self.broker._messages[position]
        self.broker._positions.remove(position)


@pytest.mark.parametrize("knows", [False, True])
async def test_nobody_waits_for_events_that_neither_the_stream_nor_the_bucket_has(*, knows: bool):
    mesh = Joining()
    for revision in (1, 2, 3):
        mesh.publish(revision)
    mesh.replica.stream_id = (await mesh.replica._log.bounds()).stream_id if knows else ""
    for position in (1, 2):
        mesh.lose(position)
    async with mesh.following():
        assert mesh.replica.position == 3
        assert mesh.replica.repairs["truncated"] == knows


async def test_a_newcomer_reads_the_bucket_once_where_it_is_of_this_stream():
    mesh = Joining()
    await mesh.materialise(1, mesh.publish(1))
    async with mesh.following():
        assert mesh.position() == 1
        assert mesh.bucket.read == 1


@pytest.mark.parametrize("position", [1, 7])
async def test_a_newcomer_takes_the_bucket_of_an_earlier_stream_for_what_was_before_this_one(position: int):
    mesh = Joining()
    await mesh.materialise(2, position)
    mesh.publish(1)
    async with mesh.following():
        assert mesh.position() == 0
        entry = await mesh.bucket.get(records.key_of(registered(2)))
        assert entry is not None
        assert records.decode(entry.value).position == 0
