"""What keeps this node's lease, and what watches over the others', put together."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from pmoves_mesh.agent.author import Author
from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.liveness.lease import Cargo, LeaseKeeper, Tenant
from pmoves_mesh.agent.liveness.suspicions import Suspicions, showing
from pmoves_mesh.agent.liveness.sweeper import Sweeper
from pmoves_mesh.agent.liveness.witness import Witness
from pmoves_mesh.core.lease import Lease
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.endings import NatsEndings
from pmoves_mesh.log.markers import NatsMarkers
from pmoves_mesh.ports import EventLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.server.permissions import disconnects


def keeper_of(
    ground: Ground,
    author: Author,
    replica: Replica,
    cloned: Callable[[Lease], None],
    observe: Callable[[str, float], None],
    cargo: Cargo,
) -> LeaseKeeper:
    """Returns what keeps this node's lease; the rest is as `LeaseKeeper` and `Tenant` take it."""
    config, connection = ground.config, ground.connection
    tenant = Tenant(
        node=config.node,
        host=ground.host,
        ttl_s=config.lease_ttl_s,
        incarnation=lambda: author.stamp.incarnation,
        identity=lambda: author.identity,
        connection=lambda: connection.id,
        cargo=cargo,
    )
    leases = NatsBucket(connection, topology.LEASES)
    return LeaseKeeper(tenant, replica.verifier, leases, ground.clock, cloned, observe)


def watching(
    ground: Ground, keeper: LeaseKeeper, author: Author, replica: Replica, log: EventLog
) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
    """Returns the loops of a witness, which begin once this node has joined the mesh."""
    config, clock, connection = ground.config, ground.clock, ground.connection
    leases = NatsBucket(connection, topology.LEASES)
    witness = Witness(author, replica, log, leases, keeper, clock)
    endings = NatsEndings(connection, config.node, disconnects(config.mesh) if config.mesh_tls else ())
    suspicions = Suspicions(witness, NatsMarkers(connection), endings, clock)
    sweeper = Sweeper(witness, replica, leases, clock, announce_s=config.announce_s)

    async def remember() -> None:
        with replica.subscribed(witness.note):
            await suspicions.run()

    return remember, sweeper.run, showing(connection, endings, keeper, clock)
