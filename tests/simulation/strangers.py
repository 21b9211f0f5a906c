"""Strangers: those who do not sign, and those who say what nobody may believe."""

from __future__ import annotations

import random
from typing import Final

import msgspec
from builders import MESH
from host import Host
from law import HOSTILE
from reader import Mesh, Reader
from virtual_time import SimClock

from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import InstanceDeregistered, InstanceRegistered, NodeAnnounced, NodeLeft
from pmoves_mesh.core.model import Instance
from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.log.memory import Faults

WORDS: Final = ("speak_unsigned", "pose_as", "lie")
PLAIN: Final = ("plain-1", "plain-2")
"""The nodes that do not sign."""

_CENTURY_MS: Final = 101 * 366 * 86_400_000


class Strangers:
    """Publish straight to the stream, as any program with a connection can."""

    def __init__(self, mesh: Mesh, usual: Faults) -> None:
        self._mesh = mesh
        self._rng = random.Random(f"{mesh.seed} strangers")
        self._reader = Reader(mesh, SimClock(), self._rng, usual)
        self._said = 0

    async def speak_unsigned(self, _host: Host) -> None:
        """Registers a service on a node that does not sign, or takes it off, or announces the node."""
        await self._say_of(self._rng.choice(PLAIN))

    async def pose_as(self, host: Host) -> None:
        """Says the same of a node that does sign: it must not matter."""
        await self._say_of(host.name)

    async def _say_of(self, node: str) -> None:
        rng = self._rng
        if rng.random() < 0.3:
            await self._publish(NodeAnnounced.subject, {"node": node, "host": f"{node}.example"})
            return
        kind = rng.choice((InstanceRegistered, InstanceRegistered, InstanceDeregistered))
        data = {
            "name": rng.choice(("old", "older")),
            "node": node,
            "host": node,
            "port": rng.randint(1, 3),
            "deregister_after": self._mesh.deregister_after_s,
        }
        await self._publish(kind.subject, {"data": data})

    async def lie(self, host: Host) -> None:
        """Says with a good signature what its holder may not say, or with a bad one what he may."""
        if not await self._is_shown(host.identity.fingerprint):
            return  # nobody else can know what names it
        rng, clock = self._rng, SimClock()
        node = f"{host.name}-other"
        liars = (
            NodeLeft(mesh=MESH, node=node, incarnation=clock.now_ms(), revision=1),
            NodeAnnounced(
                mesh=MESH, node=node, incarnation=clock.now_ms(), revision=1, host="x", instances=()
            ),
            NodeLeft(mesh=MESH, node=host.name, incarnation=clock.now_ms() + _CENTURY_MS, revision=1),
            NodeLeft(mesh="other-mesh", node=host.name, incarnation=clock.now_ms() + 1000, revision=1),
            InstanceRegistered(
                mesh=MESH,
                node=node,
                incarnation=clock.now_ms(),
                revision=1,
                service="rag-0",
                data=Instance(name="rag-0", id="1", node=node, host="x"),
            ),
        )
        self._said += 1
        sealed = envelope.seal(rng.choice(liars), host.identity, message_id=f"{HOSTILE}{self._said}")
        if rng.random() < 0.3:
            true = NodeLeft(mesh=MESH, node=host.name, incarnation=clock.now_ms() + 1000, revision=1)
            sealed = envelope.seal(true, host.identity, message_id=f"{HOSTILE}{self._said}")
            at = rng.randrange(len(sealed.payload))
            payload = sealed.payload[:at] + bytes([sealed.payload[at] ^ 1]) + sealed.payload[at + 1 :]
            sealed = SealedEvent(subject=sealed.subject, payload=payload, headers=sealed.headers)
        await self._send(sealed)

    async def _is_shown(self, fingerprint: str) -> bool:
        try:
            return await self._reader.identities.get(fingerprint) is not None
        except LogUnavailable:
            return False

    async def _publish(self, subject: str, body: dict[str, object]) -> None:
        await self._send(SealedEvent(subject=subject, payload=msgspec.json.encode(body)))

    async def _send(self, sealed: SealedEvent) -> None:
        try:
            await self._reader.log.publish(sealed)
        except LogUnavailable:
            return
