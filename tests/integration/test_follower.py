"""The follower against the memory log: where it has its replica begin."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest
from builders import Authority, registered
from http_support import PinnedClock

from pmoves_mesh.agent.follower import Follower, Upstream
from pmoves_mesh.core import envelope
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog, MemoryWorkQueue
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier

DEADLINE_S = 10.0


@dataclass(frozen=True)
class Shown:
    """Whom the mesh sees."""

    fingerprint: str
    certificate_der: bytes


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
        registry = MemoryBucket(client, "registry")
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
    following = asyncio.create_task(mesh.follower.run())
    try:
        assert await mesh.replica.wait_current(DEADLINE_S)
        assert mesh.replica.position == 3
        assert mesh.replica.repairs["truncated"] == knows
    finally:
        following.cancel()
        await asyncio.wait((following,))
