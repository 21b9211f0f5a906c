"""The witness of a simulated host: the real one, and what it hears and asks in this simulation.

What any witness says, rightly or wrongly, is here too: it is under the id that all would give it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final

from builders import MESH
from reader import Mesh, Reader
from virtual_time import SimClock

from pmoves_mesh.agent.liveness.suspicions import Suspicions
from pmoves_mesh.agent.liveness.sweeper import Sweeper
from pmoves_mesh.agent.liveness.witness import Witness
from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import InstanceExpired, NodeLost
from pmoves_mesh.core.registry import NodeEntry
from pmoves_mesh.log.endings import Ending
from pmoves_mesh.log.memory import MemoryClient, MemoryDelivery, MemoryWorkQueue
from pmoves_mesh.log.topology import LEASES

if TYPE_CHECKING:
    from assembly import Agent

_MARKERS_MAX: Final = 8
_ANSWER_S: Final = 0.4


class Judge(Witness):
    """The real witness; only whether a host answers is asked of the simulation, and not of the network."""

    mesh: Mesh
    rng: random.Random

    async def answers(self, node: str) -> bool:
        entry = self._replica.registry.nodes.get(node)
        there = any(host.name == node and host.answers for host in self.mesh.hosts)
        await self._clock.sleep(self.rng.uniform(0, 0.01) if there else _ANSWER_S)
        return there and entry is not None and entry.announced is not None


class SimMarker:
    """A lease that ran out; implements `ports.Marker`."""

    def __init__(self, delivery: MemoryDelivery) -> None:
        self._delivery = delivery

    @property
    def node(self) -> str:
        return self._delivery.message.sealed.subject.removeprefix(f"$KV.{LEASES}.")

    async def ack(self) -> None:
        await self._delivery.ack()

    async def working(self) -> None:
        await self._delivery.working()


class SimMarkers:
    """The shared consumer of markers; implements `ports.Markers`."""

    def __init__(self, client: MemoryClient) -> None:
        self._queue = MemoryWorkQueue(client, LEASES)

    async def fetch(self, timeout_s: float) -> list[SimMarker]:
        return [*map(SimMarker, await self._queue.fetch(_MARKERS_MAX, timeout_s))]


class SimEndings:
    """What a host hears of connections that ended; stands in for `NatsEndings`."""

    subjects = ("endings",)

    def __init__(self, reader: Reader) -> None:
        self._client = reader.client

    async def heard(self, _subject: str) -> AsyncIterator[Ending]:
        told: asyncio.Queue[Ending] = asyncio.Queue()
        listening = self._client.broker.listening
        listening[told] = self._client
        try:
            while True:
                yield await told.get()
        finally:
            del listening[told]


def watching(
    mesh: Mesh, agent: Agent, clock: SimClock, rng: random.Random
) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
    """Returns the loops of a witness; mirrors `liveness.watching`."""
    reader = agent.reader
    witness = Judge(agent.author, agent.replica, reader.log, reader.leases, agent.lease, clock)
    witness.mesh, witness.rng = mesh, rng
    suspicions = Suspicions(witness, SimMarkers(reader.client), SimEndings(reader), clock)
    sweeper = Sweeper(witness, agent.replica, reader.leases, clock, announce_s=mesh.announce_s)

    async def remember() -> None:
        with agent.replica.subscribed(witness.note):
            await suspicions.run()

    return remember, sweeper.run


def sealed(event: NodeLost | InstanceExpired, agent: Agent) -> SealedEvent:
    """Returns a witness's word, under the id that all witnesses would give it."""
    if isinstance(event, InstanceExpired):
        name = f"expired.{event.node}.{event.service}.{event.id}.{event.incarnation}.{event.revision}"
    else:
        name = f"lost.{event.node}.{event.incarnation}.{event.revision}"
    return envelope.seal(event, agent.author.identity, message_id=name)


def lost(node: NodeEntry, witness: str) -> NodeLost:
    """Returns that a node is lost, as somebody says who knows it as it is."""
    stamp = node.latest
    return NodeLost(
        mesh=MESH,
        node=node.name,
        incarnation=stamp.incarnation,
        revision=stamp.revision,
        witness=witness,
    )


def expired(node: NodeEntry, service: str, instance_id: str, witness: str) -> InstanceExpired:
    """Returns that an instance is gone with its node."""
    stamp = node.latest
    return InstanceExpired(
        mesh=MESH,
        node=node.name,
        incarnation=stamp.incarnation,
        revision=stamp.revision,
        service=service,
        id=instance_id,
        witness=witness,
    )
