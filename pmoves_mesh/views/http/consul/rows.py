"""The registry as Consul would show it: instances, nodes and their checks, from what the replica holds.

Nothing here waits or asks anybody. An instance is shaped once for each statement about it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import Struct

from pmoves_mesh.core.event import NodeAnnounced
from pmoves_mesh.core.model import Instance, InstanceKey
from pmoves_mesh.core.names import NodeStatus, spiffe_id
from pmoves_mesh.core.registry import InstanceEntry, NodeEntry, Registry
from pmoves_mesh.views.http.consul.kept import Kept, KeptNode, id_of, kept_of, meta_of, tags_of
from pmoves_mesh.views.http.consul.shapes import (
    CheckShape,
    CheckStatus,
    HealthShape,
    NodeShape,
    ServiceShape,
    Weights,
)

SERF: Final = "serfHealth"
NODE_MAINTENANCE: Final = "_node_maintenance"
SERVICE_MAINTENANCE: Final = "_service_maintenance:"

_ROWS_MAX: Final = 200_000
_USUAL: Final = Weights()
_STATUS: Final[dict[str, CheckStatus]] = {"healthy": "passing", "unhealthy": "critical"}


class Row(Struct, frozen=True, kw_only=True):
    """One instance as it is shown.

    Attributes:
        key: its name in the mesh.
        checks: those of its node first.
        look: changes whenever a client would see a difference; in whose words a check reports is none.
        plain_look: likewise, for whoever does not see the checks.
    """

    key: InstanceKey
    node: NodeShape
    service: ServiceShape
    checks: tuple[CheckShape, ...]
    look: Hashable
    plain_look: Hashable

    @property
    def health(self) -> HealthShape:
        """The instance as `/health` shows it."""
        return HealthShape(node=self.node, service=self.service, checks=self.checks)

    @property
    def is_outside(self) -> bool:
        """Whether it runs on a host outside the mesh."""
        return self.node.node != self.key.node

    @property
    def is_passing(self) -> bool:
        """Whether every check passes."""
        return all(check.status == "passing" for check in self.checks)


@dataclass(frozen=True, slots=True)
class _Made:
    """A row, and from what it was made."""

    record: Instance
    status: NodeStatus
    announced: NodeAnnounced | None
    reason: str | None
    position: int
    row: Row

    def holds(self, registry: Registry, entry: InstanceEntry, reason: str | None) -> bool:
        """Returns whether the row is still what would be made now."""
        node = registry.nodes[entry.record.node]
        return (
            self.record is entry.record
            and self.announced is node.announced
            and self.position == entry.position
            and (self.status, self.reason) == (node.status, reason)
            and (not self.row.is_outside or self.row.node.node.lower() not in registry.nodes)
        )


class Rows:
    """Shapes what a registry holds.

    Attributes:
        mesh: its name, which is the datacenter's.
        node: this node, of which alone it is known whether the whole of it is in maintenance.
    """

    def __init__(self, mesh: str, node: str) -> None:
        self.mesh: Final = mesh
        self.node: Final = node
        self._made: Final[dict[InstanceKey, _Made]] = {}

    def of(self, registry: Registry, entries: Iterable[InstanceEntry], reason: str | None) -> Iterator[Row]:
        """Yields the rows of those entries that are shown, in their order.

        Args:
            registry: that holds them.
            entries: of it.
            reason: why this whole node is in maintenance; None if it is not.
        """
        for entry in entries:
            if is_shown(registry, entry):
                yield self._row(registry, entry, reason if entry.record.node == self.node else None)

    def nodes(self, registry: Registry) -> list[NodeShape]:
        """Returns every node of the mesh that lives, or is lost and still has instances."""
        return [self.node_shape(node) for node in registry.nodes.values() if _is_there(registry, node)]

    def node_shape(self, node: NodeEntry) -> NodeShape:
        """Returns a node of the mesh as it is shown."""
        announced = node.announced
        records = (entry.record for entry in node.entries.values())
        host = announced.host if announced else next((record.host for record in records), "")
        meta = {}
        if announced is not None:
            meta = {"mode": announced.mode, "version": announced.version}
            meta |= {"capabilities": ",".join(announced.capabilities)} if announced.capabilities else {}
        addresses = {"lan": host, "wan": host}
        if announced is not None and announced.tailscale_ip:
            addresses["tailscale"] = announced.tailscale_ip
        position = max(1, node.position)
        return NodeShape(
            id=self.node_id(node.name),
            node=node.name,
            address=host,
            datacenter=self.mesh,
            tagged_addresses=addresses,
            meta=meta,
            create_index=position,
            modify_index=position,
        )

    def empty_node(self, name: str) -> NodeShape:
        """Returns a node of which nothing was seen yet."""
        return self.node_shape(NodeEntry(name))

    def node_id(self, name: str) -> str:
        """Returns the UUID of a node, the same on every replica and for ever.

        Source: RFC 9562 section 5.5.
        """
        return str(uuid5(NAMESPACE_URL, spiffe_id(self.mesh, "node", name)))

    def node_checks(self, node: NodeEntry, reason: str | None) -> tuple[CheckShape, ...]:
        """Returns the checks of a node itself."""
        alive = node.status == "alive"
        serf = CheckShape(
            node=node.name,
            check_id=SERF,
            name="Serf Health Status",
            status="passing" if alive else "critical",
            output="the node is alive" if alive else "the node is lost",
            modify_index=max(1, node.position),
        )
        return (serf,) if reason is None else (serf, maintenance_check(node.name, reason))

    def _row(self, registry: Registry, entry: InstanceEntry, reason: str | None) -> Row:
        key = entry.key
        made = self._made.get(key)
        if made is not None and made.holds(registry, entry, reason):
            return made.row
        row = self._shape(registry, entry, reason)
        if len(self._made) >= _ROWS_MAX:
            self._made.clear()
        node = registry.nodes[key.node]
        self._made[key] = _Made(entry.record, node.status, node.announced, reason, entry.position, row)
        return row

    def _shape(self, registry: Registry, entry: InstanceEntry, reason: str | None) -> Row:
        record = entry.record
        kept = kept_of(record)
        own: tuple[CheckShape, ...]
        outside = None if kept is None else kept.node
        # Nobody speaks for a node that speaks for itself.
        if outside is not None and outside.name.lower() not in registry.nodes:
            shown, own = self._outside_node(outside, entry.position), ()
        else:
            node = registry.nodes[record.node]
            shown, own = self.node_shape(node), self.node_checks(node, reason)
        service = _service(entry, kept, shown)
        found = (*own, *_checks(record, kept, service, reason))
        checks = tuple(msgspec.structs.replace(check, node=shown.node) for check in found)
        plain = _digest(look_of((shown, service)))
        look = _digest((plain, look_of(checks)))
        return Row(key=record.key, node=shown, service=service, checks=checks, look=look, plain_look=plain)

    def _outside_node(self, outside: KeptNode, position: int) -> NodeShape:
        return NodeShape(
            id=self.node_id(outside.name),
            node=outside.name,
            address=outside.address,
            datacenter=self.mesh,
            tagged_addresses={"lan": outside.address, "wan": outside.address},
            meta=outside.meta,
            create_index=max(1, position),
            modify_index=max(1, position),
        )


def is_shown(registry: Registry, entry: InstanceEntry) -> bool:
    """Returns whether an instance is shown: a node that left took its services with it."""
    return registry.is_listed(entry) and registry.nodes[entry.record.node].status != "left"


def maintenance_check(node: str, reason: str, service: ServiceShape | None = None) -> CheckShape:
    """Returns the check that says that a node, or an instance of it, is in maintenance."""
    if service is None:
        return CheckShape(
            node=node,
            check_id=NODE_MAINTENANCE,
            name="Node Maintenance Mode",
            status="critical",
            output=reason,
            type="maintenance",
        )
    return CheckShape(
        node=node,
        check_id=f"{SERVICE_MAINTENANCE}{service.id}",
        name="Service Maintenance Mode",
        status="critical",
        output=reason,
        type="maintenance",
        service_id=service.id,
        service_name=service.service,
        service_tags=service.tags,
        modify_index=service.modify_index,
    )


def _is_there(registry: Registry, node: NodeEntry) -> bool:
    if node.status == "lost":
        return any(registry.is_listed(entry) for entry in node.entries.values())
    return node.status == "alive"


def _service(entry: InstanceEntry, kept: Kept | None, node: NodeShape) -> ServiceShape:
    record = entry.record
    position = max(1, entry.position)
    own_address = record.host == node.address and not (kept is not None and kept.addressed)
    return ServiceShape(
        id=id_of(record, kept),
        service=(kept.service if kept else "") or record.name,
        tags=tags_of(record, kept),
        address="" if own_address else record.host,
        tagged_addresses=kept.tagged_addresses if kept else {},
        meta=meta_of(record, kept),
        port=record.port,
        weights=(kept.weights if kept else None) or _USUAL,
        enable_tag_override=kept.enable_tag_override if kept else False,
        datacenter=node.datacenter,
        create_index=position,
        modify_index=position,
    )


def _checks(
    record: Instance, kept: Kept | None, service: ServiceShape, reason: str | None
) -> Iterator[CheckShape]:
    """Yields the checks of an instance itself: one if somebody looks after its health, and maintenance.

    What is in maintenance because its whole node is shows that by the node's check alone.
    """
    node = record.node
    named = kept.check if kept else None
    status = _STATUS.get(record.health_status)
    output = record.health_output
    if status is None and named is not None:
        status, output = named.status or "critical", named.output or output or "not checked yet"
    elif status is None and record.health_url:
        status, output = "critical", output or "not checked yet"
    elif status == "passing" and named is not None and named.warning:
        status, output = "warning", named.output
    if status is not None:
        yield CheckShape(
            node=node,
            check_id=named.id if named else f"service:{service.id}",
            name=named.name if named else f"Service '{service.service}' check",
            status=status,
            notes=named.notes if named else "",
            output=output,
            service_id=service.id,
            service_name=service.service,
            service_tags=service.tags,
            type=named.type if named else "",
            create_index=service.create_index,
            modify_index=service.modify_index,
        )
    if record.maintenance and record.maintenance_reason != reason:
        yield maintenance_check(node, record.maintenance_reason, service)


def look_of(shapes: Iterable[NodeShape | ServiceShape | CheckShape]) -> tuple[Any, ...]:
    """Returns what tells whether a client would see a difference, to be compared with `==`."""
    return tuple(
        _check_look(shape)
        if isinstance(shape, CheckShape)
        else msgspec.structs.replace(shape, create_index=1, modify_index=1)
        for shape in shapes
    )


def _check_look(check: CheckShape) -> tuple[Any, ...]:
    named = (check.node, check.check_id, check.name, check.notes, check.type)
    return (*named, check.status, check.service_id, check.service_name, check.service_tags)


def _digest(look: tuple[Any, ...]) -> bytes:
    return blake2b(msgspec.json.encode(look), digest_size=12).digest()
