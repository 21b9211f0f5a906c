"""The mesh and the tailnet side by side, and a plain word for each disagreement; pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Final, NamedTuple

from pmoves_mesh.tailscale.state import Peer, TailscaleStatus

_RANGES: Final = (ip_network("100.64.0.0/10"), ip_network("fd7a:115c:a1e0::/48"))
"""Out of these Tailscale gives addresses. Source: tailscale.com/kb/1015, /kb/1033."""


class MeshNode(NamedTuple):
    """A node as the registry has it.

    Attributes:
        status: `alive`, `left` or `lost`.
        last_seen: ISO 8601, UTC.
    """

    name: str
    status: str
    host: str
    tailscale_ip: str | None
    last_seen: str

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses that it announces."""
        return frozenset(filter(None, (self.host, self.tailscale_ip)))


class Row(NamedTuple):
    """A machine: a node of the mesh, of the tailnet, or of both.

    Attributes:
        mesh: the node's state; None if it is no node of the mesh.
        tailscale: `online` or `offline`; None if the tailnet does not have it.
        address: in the tailnet, else the one that it announces.
        path: how it is reached through Tailscale, such as `relayed by fra`.
        last_seen: ISO 8601, UTC, by the mesh, else by Tailscale; None if it is connected or not known.
        disagreement: empty where the two agree.
    """

    name: str
    mesh: str | None
    tailscale: str | None
    address: str
    ipv6: str | None
    path: str | None
    last_seen: str | None
    disagreement: str


def is_tailscale(address: str) -> bool:
    """Returns whether an address is one of those that Tailscale gives."""
    try:
        found = ip_address(address)
    except ValueError:
        return False
    return any(found in network for network in _RANGES)


def compare(nodes: Iterable[MeshNode], status: TailscaleStatus | None, now_ms: int) -> list[Row]:
    """Returns a row a machine: the nodes by name, then the machines that are no nodes.

    Args:
        nodes: of the mesh.
        status: what Tailscale says; None if it says nothing, and nothing is then held against it.
        now_ms: unix milliseconds.
    """
    ordered = sorted(nodes)
    pairs, others = _paired(ordered, status.machines if status is not None else ())
    rows = [
        _row(node, pairs.get(node), " and ".join(_disagreements(node, pairs.get(node), status, now_ms)))
        for node in ordered
    ]
    for machine in others:
        expired = "its Tailscale key has expired" if machine.has_expired(now_ms) else ""
        rows.append(_row(None, machine, expired))
    return rows


def _paired(nodes: list[MeshNode], machines: Iterable[Peer]) -> tuple[dict[MeshNode, Peer], list[Peer]]:
    """Returns the machines that the nodes run on, and those of none.

    An address is unique, and so goes before any name.
    """
    pairs: dict[MeshNode, Peer] = {}
    others = list(machines)
    for same in (_same_address, _same_name):
        for node in nodes:
            found = next((machine for machine in others if node not in pairs and same(node, machine)), None)
            if found is not None:
                pairs[node] = found
                others.remove(found)
    return pairs, others


def _same_address(node: MeshNode, machine: Peer) -> bool:
    return not node.addresses.isdisjoint(machine.addresses or ())


def _same_name(node: MeshNode, machine: Peer) -> bool:
    return node.name in {machine.name, machine.host_name.lower()}


def _disagreements(
    node: MeshNode, machine: Peer | None, status: TailscaleStatus | None, now_ms: int
) -> Iterator[str]:
    if status is None:
        return
    announced = sorted(filter(is_tailscale, node.addresses))
    if machine is None:
        if announced:
            yield f"it announces {announced[0]}, which nobody in this tailnet has"
        elif node.status == "alive":
            yield "it is not in this tailnet"
        return
    foreign = [address for address in announced if address not in (machine.addresses or ())]
    if foreign:
        yield f"it announces {foreign[0]}, but Tailscale gave it {machine.ipv4 or machine.ipv6}"
    if node.status == "alive" and not machine.online:
        yield "its announcements arrive, but Tailscale has it offline"
    if node.status == "lost" and machine.online:
        yield "Tailscale reaches it, but its agent is down or cut off from NATS"
    if machine.has_expired(now_ms):
        yield "its Tailscale key has expired"


def _row(node: MeshNode | None, machine: Peer | None, disagreement: str) -> Row:
    seen = (
        None
        if machine is None or machine.last_seen is None
        else machine.last_seen.strftime("%Y-%m-%dT%H:%M:%SZ")
    )
    return Row(
        name=node.name if node else machine.name if machine else "",
        mesh=node.status if node else None,
        tailscale=("online" if machine.online else "offline") if machine else None,
        address=(machine.ipv4 or machine.ipv6 or "") if machine else node.host if node else "",
        ipv6=machine.ipv6 if machine else None,
        path=_path(machine) if machine else None,
        last_seen=node.last_seen if node else seen,
        disagreement=disagreement,
    )


def _path(machine: Peer) -> str:
    if machine.path == "direct":
        return f"direct at {machine.via}"
    return f"relayed by {machine.via}" if machine.path == "relayed" and machine.via else machine.path
