"""Questions to the registry, and the answers as readers see them.

Listing shows the registry as it is, lost nodes included; discovering shows where a client
should go: instances of living nodes, not in maintenance, the best first.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from msgspec import Struct

from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.names import HealthStatus, Mode, NodeStatus
from pmoves_mesh.core.registry import InstanceEntry, NodeEntry, Registry

HEALTH_RANK: Final[dict[HealthStatus, int]] = {"healthy": 0, "unknown": 1, "unhealthy": 2}


class InstanceView(Struct, frozen=True, kw_only=True):
    """An instance as every reader gets it: the owner's record, and what the replica knows of it.

    Attributes:
        last_seen: ISO 8601, UTC: when the stream last took something from the instance's node.
        revision: the node's revision at which the record was stated.
        position: the stream's sequence of the record; 0 while it is on its way there.
        verified: whether the record carries a signature that was verified.
        signer: the SPIFFE ID of who signed it; empty if nobody did.
    """

    name: str
    id: str
    node: str
    host: str
    port: int
    ports: dict[str, int]
    mode: Mode
    capabilities: tuple[str, ...]
    health_url: str | None
    health_status: HealthStatus
    health_output: str
    maintenance: bool
    maintenance_reason: str
    metadata: dict[str, Any]
    deregister_after: float
    registered_at: str
    last_seen: str
    node_status: NodeStatus
    revision: int
    position: int
    verified: bool
    signer: str


class NodeView(Struct, frozen=True, kw_only=True):
    """A node as every reader gets it.

    Attributes:
        services: the names of its services.
        instances: how many instances it holds.
        last_seen: ISO 8601, UTC: when the stream last took something from it.
        gaps: how often a link in its chain of events was missing here.
    """

    name: str
    status: NodeStatus
    host: str
    port: int
    mode: Mode
    capabilities: tuple[str, ...]
    services: tuple[str, ...]
    instances: int
    tailscale_ip: str | None
    addresses: dict[str, str]
    resources: dict[str, Any]
    version: str
    incarnation: int
    revision: int
    position: int
    last_seen: str
    verified: bool
    signer: str
    gaps: int


class Filter(Struct, frozen=True, kw_only=True):
    """Which instances a reader asks for; what is None does not matter."""

    name: str | None = None
    node: str | None = None
    mode: Mode | None = None
    capabilities: tuple[str, ...] = ()
    healthy_only: bool = False


def find(registry: Registry, wanted: Filter) -> list[InstanceEntry]:
    """Returns the listed instances that match, ordered by service, node and id."""
    entries = _candidates(registry, wanted)
    return sorted((entry for entry in entries if matches(registry, entry, wanted)), key=_key)


def matches(registry: Registry, entry: InstanceEntry, wanted: Filter) -> bool:
    """Returns whether an instance is listed, and one of those that a reader asks for."""
    record = entry.record
    if wanted.name not in {None, record.name} or wanted.node not in {None, record.node}:
        return False
    if wanted.mode not in {None, record.mode} or not registry.is_listed(entry):
        return False
    if any(name not in record.capabilities for name in wanted.capabilities):
        return False
    if not wanted.healthy_only:
        return True
    return record.health_status == "healthy" and registry.is_discoverable(entry)


def resolve(registry: Registry, service: str, *, node: str = "") -> list[InstanceEntry]:
    """Returns the discoverable instances of a service, the best first; unhealthy ones come last.

    Args:
        registry: where to look.
        service: the service's name.
        node: the asker's own node, whose instances are preferred among equals.
    """
    found = [
        entry for entry in registry.group_of_service(service).values() if registry.is_discoverable(entry)
    ]
    return found if len(found) < 2 else _best_first(found, node)


def instance_view(registry: Registry, entry: InstanceEntry) -> InstanceView:
    """Returns an instance as readers get it."""
    record = entry.record
    node = registry.nodes[record.node]
    return InstanceView(
        name=record.name,
        id=record.id,
        node=record.node,
        host=record.host,
        port=record.port,
        ports=record.ports,
        mode=record.mode,
        capabilities=record.capabilities,
        health_url=record.health_url,
        health_status=record.health_status,
        health_output=record.health_output,
        maintenance=record.maintenance,
        maintenance_reason=record.maintenance_reason,
        metadata=record.metadata,
        deregister_after=record.deregister_after,
        registered_at=record.registered_at,
        last_seen=iso(max(entry.time_ms, node.seen_ms)),
        node_status=node.status,
        revision=entry.stamp.revision,
        position=entry.position,
        verified=entry.verified,
        signer=entry.signer,
    )


def node_view(node: NodeEntry) -> NodeView:
    """Returns a node as readers get it; one that never announced itself shows by what it registered."""
    announced = node.announced
    instances = tuple(node.entries.values())
    return NodeView(
        name=node.name,
        status=node.status,
        host=announced.host if announced else (instances[0].record.host if instances else ""),
        port=announced.port if announced else 0,
        mode=announced.mode if announced else "docked",
        capabilities=announced.capabilities if announced else (),
        services=tuple(sorted({key.service for key in node.entries})),
        instances=len(instances),
        tailscale_ip=announced.tailscale_ip if announced else None,
        addresses=announced.addresses if announced else {},
        resources=announced.resources if announced else {},
        version=announced.version if announced else "",
        incarnation=max(node.latest.incarnation, 0),
        revision=node.latest.revision,
        position=node.position,
        last_seen=iso(node.seen_ms),
        verified=node.verified,
        signer=node.signer,
        gaps=node.gaps,
    )


def iso(time_ms: int) -> str:
    """Returns unix milliseconds as ISO 8601 in UTC; empty for 0.

    Source: RFC 3339.
    """
    if time_ms == 0:
        return ""
    moment = datetime.fromtimestamp(time_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _candidates(registry: Registry, wanted: Filter) -> Iterable[InstanceEntry]:
    """Returns the smallest group of instances that an index gives."""
    if wanted.name is not None:
        return registry.of_service(wanted.name)
    if wanted.node is not None:
        node = registry.nodes.get(wanted.node)
        return node.entries.values() if node else ()
    return registry.with_capabilities(wanted.capabilities)


def _key(entry: InstanceEntry) -> InstanceKey:
    return entry.key


def _best_first(entries: Iterable[InstanceEntry], node: str) -> list[InstanceEntry]:
    return sorted(
        entries,
        key=lambda entry: (
            HEALTH_RANK[entry.record.health_status],
            entry.record.port == 0,
            entry.record.node != node,
            entry.key,
        ),
    )
