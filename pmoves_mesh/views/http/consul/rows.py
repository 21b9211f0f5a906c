"""The registry as Consul would show it: instances, nodes and their checks, from what the replica holds.

Nothing here waits or asks anybody. An instance is shaped once for each statement about it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from uuid import NAMESPACE_URL, uuid5

import msgspec
from msgspec import Struct

from pmoves_mesh.core.event import NodeAnnounced
from pmoves_mesh.core.model import Instance, InstanceKey
from pmoves_mesh.core.names import NodeStatus, spiffe_id
from pmoves_mesh.core.registry import InstanceEntry, NodeEntry, Registry
from pmoves_mesh.views.http.consul.instances import (
    digest,
    instance_checks,
    look_of,
    maintenance_check,
    service_shape,
)
from pmoves_mesh.views.http.consul.kept import KeptNode, kept_of
from pmoves_mesh.views.http.consul.shapes import CheckShape, HealthShape, NodeShape, ServiceShape

SERF: Final = "serfHealth"

_ROWS_MAX: Final = 200_000


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
        service = service_shape(entry, kept, shown)
        found = (*own, *instance_checks(record, kept, service, reason))
        checks = tuple(msgspec.structs.replace(check, node=shown.node) for check in found)
        plain = digest(look_of((shown, service)))
        look = digest((plain, look_of(checks)))
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


def _is_there(registry: Registry, node: NodeEntry) -> bool:
    if node.status == "lost":
        return any(registry.is_listed(entry) for entry in node.entries.values())
    return node.status == "alive"
