"""Which instances a name means, and where they are: the name that SRV points to, and its address."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct

from pmoves_mesh.core.registry import InstanceEntry, NodeEntry, Registry
from pmoves_mesh.views.dns.names import Address, address_name, address_of, host_name, label_of, node_name


class Place(Struct, frozen=True):
    """Where a host is.

    Attributes:
        name: its name in DNS, which may be one outside the mesh.
        address: None where only the name is known.
    """

    name: str
    address: Address | None


class Endpoint(Struct, frozen=True):
    """Where an instance is, and at which port; 0 if it has none there."""

    entry: InstanceEntry
    place: Place
    port: int


def listed(registry: Registry, service: str) -> list[InstanceEntry]:
    """Returns the instances of a service that readers of the registry see."""
    return [entry for entry in registry.of_service(service) if registry.is_listed(entry)]


def tagged(entries: list[InstanceEntry], tag: str) -> list[InstanceEntry]:
    """Returns those of some instances that have a capability, by its label; all of them without a tag."""
    label = label_of(tag)
    return [entry for entry in entries if not tag or label in map(label_of, entry.record.capabilities)]


def capable(registry: Registry, asked: str) -> list[InstanceEntry]:
    """Returns the instances of any service that have a capability, by its label."""
    label = label_of(asked)
    found = {
        entry.key: entry
        for capability in registry.capabilities()
        if label_of(capability) == label
        for entry in registry.with_capabilities((capability,))
    }
    return [entry for entry in found.values() if registry.is_listed(entry)]


def is_usable(registry: Registry, entry: InstanceEntry) -> bool:
    """Returns whether a client should be sent to an instance."""
    return entry.record.health_status != "unhealthy" and registry.is_discoverable(entry)


def endpoints(
    registry: Registry, mesh: str, entries: Iterable[InstanceEntry], port: str = ""
) -> Iterator[Endpoint]:
    """Yields where instances are; those whose host DNS cannot express are left out.

    Args:
        registry: where they are from.
        mesh: whose they are.
        entries: the instances.
        port: the name of the port; empty for the main one.
    """
    for entry in entries:
        number = entry.record.ports.get(port, 0) if port else entry.record.port
        place = place_of(registry, mesh, entry)
        if place is not None:
            yield Endpoint(entry, place, number)


def place_of(registry: Registry, mesh: str, entry: InstanceEntry) -> Place | None:
    """Returns where an instance is; None if DNS has no word for it.

    A host without a dot is a node of the mesh, if there is one of that name.
    """
    host, node = entry.record.host, registry.nodes[entry.record.node]
    address = address_of(host)
    if address is not None:
        if address == node_address(node):
            return Place(node_name(mesh, node.name), address)
        return Place(address_name(mesh, node.name, address), address)
    name = host_name(host)
    known = None if name is None else _node_called(registry, mesh, name)
    if name is None or known is None:
        return None if name is None else Place(name, None)
    address = node_address(known)
    if address is None and known.announced is not None:
        # An SRV record may not point to an alias. Source: RFC 2782.
        return Place(host_name(known.announced.host) or name, None)
    return Place(node_name(mesh, known.name), address)


def node_address(node: NodeEntry) -> Address | None:
    """Returns the address that a node announces; None if it announces none, or a name."""
    return None if node.announced is None else address_of(node.announced.host)


def _node_called(registry: Registry, mesh: str, name: str) -> NodeEntry | None:
    """Returns the node that a host's name stands for: `jetson`, or `jetson.node.<mesh>`."""
    known = registry.nodes.get(name.partition(".")[0])
    called = () if known is None else (f"{known.name}.", node_name(mesh, known.name))
    return known if name in called else None
