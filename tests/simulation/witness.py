"""Witnesses, in miniature: every agent looks at the leases, and says what it makes of those it misses.

`witness` is what stands in for the agent's own witness. It is wrong at times, as any witness is: a
lease that cannot be refreshed in time is not there, and a hasty one does not even wait for that.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from builders import MESH
from reader import Mesh

from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import InstanceExpired, NodeLost
from pmoves_mesh.core.registry import NodeEntry
from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.ports import Clock

if TYPE_CHECKING:
    from assembly import Agent

_GRACE_S: Final = 1.0


async def witness(mesh: Mesh, agent: Agent, clock: Clock, rng: random.Random) -> None:
    """Declares nodes lost and instances expired, for ever, in the name of `agent`'s node."""
    await Witness(mesh, agent, clock, rng).run()


class Witness:
    """What one agent has seen of the others' leases."""

    def __init__(self, mesh: Mesh, agent: Agent, clock: Clock, rng: random.Random) -> None:
        self._mesh = mesh
        self._agent = agent
        self._clock = clock
        self._rng = rng
        self._missed_since_s: dict[str, float] = {}
        self._lost_since_s: dict[str, float] = {}

    async def run(self) -> None:
        ttl_s = self._mesh.lease_ttl_s
        while True:
            await self._clock.sleep(self._rng.uniform(0.3, 0.6) * ttl_s)
            try:
                await self._look()
            except LogUnavailable:
                self._missed_since_s.clear()

    async def _look(self) -> None:
        agent = self._agent
        held = set(await agent.reader.leases.keys())
        if not agent.replica.is_current:
            self._missed_since_s.clear()
            return
        now_s = self._clock.monotonic_s()
        for node in tuple(agent.replica.registry.nodes.values()):
            if node.name == agent.author.node or node.latest.incarnation < 1:
                continue
            if node.status == "alive" and node.name not in held:
                await self._missed(node, now_s)
            else:
                self._missed_since_s.pop(node.name, None)
            if node.status == "lost":
                await self._expire(node, now_s)
            else:
                self._lost_since_s.pop(node.name, None)

    async def _missed(self, node: NodeEntry, now_s: float) -> None:
        since_s = self._missed_since_s.setdefault(node.name, now_s)
        is_hasty = self._rng.random() < self._mesh.hasty
        if is_hasty or now_s - since_s > self._mesh.lease_ttl_s + _GRACE_S:
            await self._say(lost(node, self._agent.author.node))

    async def _expire(self, node: NodeEntry, now_s: float) -> None:
        since_s = self._lost_since_s.setdefault(node.name, now_s)
        if now_s - since_s <= self._mesh.deregister_after_s:
            return
        for entry in tuple(node.entries.values()):
            if self._agent.replica.registry.is_listed(entry):
                await self._say(expired(node, entry.key.service, entry.key.id, self._agent.author.node))

    async def _say(self, event: NodeLost | InstanceExpired) -> None:
        await self._agent.reader.log.publish(sealed(event, self._agent))


def sealed(event: NodeLost | InstanceExpired, agent: Agent) -> SealedEvent:
    """Returns a witness's word, under an id that all witnesses would give it."""
    about = f"{event.service}.{event.id}." if isinstance(event, InstanceExpired) else ""
    name = f"{event.type}.{event.node}.{about}{event.incarnation}.{event.revision}"
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
