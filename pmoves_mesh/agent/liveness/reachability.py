"""Reachability: whether other nodes reach the address that this one announces, found out by trying.

Nodes stand on a ring, and each is tried by the two that come after it. What a node found stands in
its lease, so that it costs the stream nothing, and whom it concerns reads it there and says so.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final

import structlog

from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.health import reach
from pmoves_mesh.core import lease
from pmoves_mesh.core.lease import LOOKS_MAX, Look
from pmoves_mesh.core.names import spiffe_id
from pmoves_mesh.core.registry import NodeEntry
from pmoves_mesh.core.target import canonical, is_loopback
from pmoves_mesh.errors import LogError, PkiError, RemoteProtocolError
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.pki import keystore
from pmoves_mesh.ports import Bucket, Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.tls import client_context, peer_id

_log: Final = structlog.get_logger(__name__)

_TRIED_BY: Final = 2
_LOOKED_THROUGH_MAX: Final = 8
"""How far along the ring a node on another host is looked for, before one on the same host will do."""

_PORTS_MAX: Final = 3
_KNOCK_S: Final = 2.0
_INTERVAL_S_MAX: Final = 30.0

Knock = Callable[[NodeEntry], Awaitable[str]]
"""Returns why a node's address is not reached from here; nothing if it is."""


class Ring:
    """The order in which nodes stand, by a hash of their names, so that all agents see nearly the same.

    Attributes:
        hosts: the announced address of each node that lives, by its name.
    """

    def __init__(self, hosts: Mapping[str, str]) -> None:
        self.hosts: Final = hosts
        self._names = sorted(hosts, key=lambda name: blake2b(name.encode(), digest_size=8).digest())
        self._places = {name: place for place, name in enumerate(self._names)}

    def tried_by(self, node: str) -> tuple[str, ...]:
        """Returns which nodes try to reach one: the next on the ring, and rather ones on other hosts."""
        place = self._places.get(node)
        if place is None:
            return ()
        count = len(self._names)
        steps = range(1, min(count, _LOOKED_THROUGH_MAX + 1))
        following = [self._names[(place + step) % count] for step in steps]
        # A node on the same host would reach it there, whatever the others do.
        following.sort(key=lambda name: self.hosts[name] == self.hosts[node])
        return tuple(following[:_TRIED_BY])

    def tries(self, node: str) -> tuple[str, ...]:
        """Returns whom one tries to reach: of those shortly before it on the ring, whoever is tried by it."""
        place = self._places.get(node)
        if place is None:
            return ()
        count = len(self._names)
        preceding = [self._names[place - step] for step in range(1, min(count, _LOOKED_THROUGH_MAX + 1))]
        return tuple(name for name in preceding if node in self.tried_by(name))


class Reachability:
    """Tries those nodes whose turn it is, and hears from the leases of others how this node fares.

    Attributes:
        looks: what this node found, by node; its lease carries it.
        told: what other nodes found of this one, by node; empty text where they reach it.
    """

    def __init__(self, node: str, replica: Replica, leases: Bucket, knock: Knock, clock: Clock) -> None:
        self.looks: dict[str, Look] = {}
        self.told: dict[str, str] = {}
        self._node = node
        self._replica = replica
        self._leases = leases
        self._knock = knock
        self._clock = clock
        self._failed: set[str] = set()
        self._ring: Ring = Ring({})
        self._ring_version = -1

    def warnings(self) -> list[str]:
        """Returns a line for a person, if others do not reach this node."""
        own = self._drawn().hosts.get(self._node, "")
        return [
            (
                f"node {name} does not reach this node at {own} ({problem}): "
                "open the way, or let this node announce another address (PMOVES_ADVERTISE_HOST)"
            )
            for name, problem in sorted(self.told.items())
            if problem
        ]

    def looping(self, announce_s: float) -> Callable[[], Coroutine[Any, Any, None]]:
        """Returns a loop that tries and listens for ever, as often as nodes announce themselves, or more."""
        interval_s = min(announce_s, _INTERVAL_S_MAX)

        async def run() -> None:
            while True:
                await self.look()
                try:
                    await self.listen()
                except LogError as error:
                    _log.debug("not heard who reaches this node", detail=str(error))
                await self._clock.sleep(interval_s)

        return run

    async def look(self) -> None:
        """Tries each node whose turn it is; that one is not reached is believed when it is so twice."""
        ring = self._drawn()
        hosts = ring.hosts
        alone = is_loopback(hosts.get(self._node, ""))
        # Of nodes that are all on loopback nothing need be found out: they are on one machine.
        tried = ring.tries(self._node)
        names = [name for name in tried if not (alone and is_loopback(hosts[name]))][:LOOKS_MAX]
        nodes = [self._replica.registry.nodes[name] for name in names]
        problems = await asyncio.gather(*map(self._knock, nodes))
        found: dict[str, Look] = {}
        for node, problem in zip(nodes, problems, strict=True):
            if not problem or node.name in self._failed:
                found[node.name] = Look(host=hosts[node.name], problem=problem)
        self._failed = {node.name for node, problem in zip(nodes, problems, strict=True) if problem}
        self.looks = found

    async def listen(self) -> None:
        """Reads what the nodes found whose turn it is to try this one.

        Raises:
            LogError: if the leases cannot be read.
        """
        ring = self._drawn()
        told: dict[str, str] = {}
        for name in ring.tried_by(self._node):
            look = await self._look_of(name)
            if look is None or look.host != ring.hosts[self._node]:
                continue  # it has not tried yet, or another address
            told[name] = problem = look.problem
            if problem and problem != self.told.get(name):
                _log.warning("another node does not reach this one", by=name, host=look.host, problem=problem)
            elif not problem and self.told.get(name):
                _log.info("another node reaches this one again", by=name, host=look.host)
        self.told = told

    def _drawn(self) -> Ring:
        """Returns the ring of those who live and sign; it is drawn anew only where the registry has moved."""
        registry = self._replica.registry
        if registry.version != self._ring_version:
            hosts = {
                node.name: canonical(node.announced.host)
                for node in registry.nodes.values()
                if node.status == "alive" and node.latest.incarnation > 0 and node.announced is not None
            }
            self._ring, self._ring_version = Ring(hosts), registry.version
        return self._ring

    async def _look_of(self, name: str) -> Look | None:
        entry = await self._leases.get(name)
        if entry is None:
            return None
        verifier = self._replica.verifier
        try:
            await verifier.signer(lease.signer_of(entry.value))
            found = lease.unseal(entry.value, name, verifier.trust, self._clock.now_ms())
        except RemoteProtocolError:
            return None
        return found.looks.get(self._node)


class Knocking:
    """Knocks at nodes' addresses, as one that is on this node's host.

    Args:
        ground: whose host and mesh.
    """

    def __init__(self, ground: Ground) -> None:
        self._mesh = ground.config.mesh
        self._own_host = ground.host
        self._roots = ground.config.tls_dir / keystore.CA_CERTIFICATE

    async def __call__(self, node: NodeEntry) -> str:
        """Returns why a node is not reached; nothing if it is.

        A host that refuses is there. A firewall may swallow what comes for one port and let another
        through, so what the node serves is tried too.
        """
        if node.announced is None:
            return ""
        host, api = node.announced.host, node.announced.port
        if is_loopback(canonical(host)) and not is_loopback(canonical(self._own_host)):
            return "loopback is another machine here"
        served = (one.record.port for one in node.entries.values() if one.record.host == host)
        problem = ""
        for port in [*dict.fromkeys(port for port in (api, *served) if port)][:_PORTS_MAX]:
            connection, problem = await self._connect(host, port)
            if connection is not None:
                with connection:
                    return await self._stranger(connection, node.name) if port == api else ""
            if not problem:
                break
        return problem

    async def _connect(self, host: str, port: int) -> tuple[socket.socket | None, str]:
        """Returns a connection if one is made, and why the host is not reached if it is not."""
        try:
            async with asyncio.timeout(_KNOCK_S):
                return await reach.connect(host, port), ""
        except TimeoutError:
            return None, "nothing answers"
        except OSError as error:
            found = reach.unconnected(error)
            return None, "" if found.answered and found.passed is False else found.output

    async def _stranger(self, connection: socket.socket, name: str) -> str:
        """Returns who answers instead of a node; nothing if it does, or what answers names nobody."""
        own = spiffe_id(self._mesh, "node", name)
        try:
            if is_loopback(canonical(str(connection.getpeername()[0]))):
                return ""  # it speaks plain HTTP there, and to TLS it would only complain
            # Whoever it is of this mesh: only then is it known that the address is another's.
            context = client_context(None, None, self._roots, allow=(f"{own.rpartition('node/')[0]}*",))
            async with asyncio.timeout(_KNOCK_S):
                _, writer = await asyncio.open_connection(
                    sock=connection, ssl=context, server_hostname=self._mesh
                )
                shown = peer_id(writer) or own
                writer.close()
                with suppress(OSError):
                    await writer.wait_closed()
        except (OSError, PkiError, TimeoutError):
            return ""
        return "" if shown == own else f"{' '.join(shown.split('/')[-2:])} answers there"


def reachability_of(ground: Ground, replica: Replica) -> Reachability:
    """Returns what finds out who reaches whom, from where this agent stands."""
    leases = NatsBucket(ground.connection, topology.LEASES)
    return Reachability(ground.config.node, replica, leases, Knocking(ground), ground.clock)
