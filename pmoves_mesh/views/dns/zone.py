"""The zone of a mesh: what its registry says to a name and a type of record, and nothing about wires.

Source: RFC 1034 section 4.3.2, RFC 2308 (what is not there), RFC 8482 (ANY).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import dns.name
from dns.name import Name
from dns.rcode import NOERROR, NXDOMAIN, REFUSED, SERVFAIL, Rcode
from dns.rdatatype import AAAA, ANY, AXFR, CNAME, IXFR, NS, PTR, SOA, SRV, TXT, A, RdataType
from msgspec import Struct

from pmoves_mesh.core.registry import InstanceEntry, NodeEntry, Registry
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.dns import names, records
from pmoves_mesh.views.dns.endpoints import (
    Endpoint,
    Place,
    capable,
    endpoints,
    is_usable,
    listed,
    node_address,
    tagged,
)
from pmoves_mesh.views.dns.names import Address
from pmoves_mesh.views.dns.records import Data

_TYPES: Final = (SOA, NS, PTR, SRV, A, AAAA, TXT)


class Record(Struct, frozen=True):
    """A resource record of the name that was asked for.

    Attributes:
        additional: names and records that whoever gets this one asks for next.
    """

    data: Data
    additional: tuple[tuple[str, Data], ...] = ()


class Reply(Struct, frozen=True):
    """What there is to say.

    Attributes:
        records: of the asked name, in no order that means anything.
        zone: in whose authority it is said; None if in nobody's.
        soa: of that zone, where a name or a type is not there.
    """

    rcode: Rcode
    records: tuple[Record, ...] = ()
    zone: str | None = None
    soa: Data | None = None


_Site = Callable[[RdataType], Iterable[Record]]
"""What is at a name: returns the records of a type."""


class Zone:
    """Answers from the replica. Names are shown for as long as the registry shows what they name.

    Attributes:
        name: the mesh's.
    """

    def __init__(self, replica: Replica, *, node: str, negative_ttl_s: int, rng: random.Random) -> None:
        """Takes where the answers come from.

        Args:
            replica: the registry.
            node: this node's name, which is the name server.
            negative_ttl_s: for how long others may remember that something is not there.
            rng: shuffles.
        """
        self.name: Final = dns.name.from_text(replica.verifier.trust.mesh)
        self._mesh = replica.verifier.trust.mesh
        self._replica = replica
        self._server = names.node_name(self._mesh, node)
        self._server_node = node
        self._negative_ttl_s = negative_ttl_s
        self._rng = rng
        self._nodes_by_address: tuple[Registry, int, dict[Address, list[str]]] | None = None

    def ask(self, name: Name, kind: RdataType, *, whole: bool) -> Reply:
        """Returns the answer to a question of class IN.

        Args:
            name: absolute, in any case.
            kind: the type of record.
            whole: whether ANY gets every type, and not just one of them.
        """
        if name.is_subdomain(self.name):
            zone = self.name
            site = self._site(name.labels[: -len(zone.labels)])
        elif names.is_reverse(name):
            zone = name
            site = self._reverse_site(name)
        else:
            return Reply(REFUSED)
        if kind in {AXFR, IXFR}:
            return Reply(REFUSED)
        found = () if site is None else self._found(site, kind, whole=whole)
        if found:
            return Reply(NOERROR, found, zone.to_text())
        if not self._replica.is_informed and name != self.name:
            return Reply(SERVFAIL)
        if site is None and zone is name:
            return Reply(REFUSED)
        return Reply(NXDOMAIN if site is None else NOERROR, (), zone.to_text(), self._soa())

    def _found(self, site: _Site, kind: RdataType, *, whole: bool) -> tuple[Record, ...]:
        if kind != ANY:
            found = list(dict.fromkeys(site(kind)))
        else:
            found = []
            for each in _TYPES:
                found += (one for one in dict.fromkeys(site(each)) if one.data.kind == each)
                if found and not whole:
                    break
        self._rng.shuffle(found)
        return tuple(found)

    def _site(self, labels: tuple[bytes, ...]) -> _Site | None:
        """Returns what is at a name of the mesh; None if there is no such name."""
        registry = self._replica.registry
        site: _Site | None
        match names.parse(labels):
            case names.Apex():
                site = self._apex
            case names.Branch(service):
                site = _nothing if not service or listed(registry, service) else None
            case names.OfService(service, tag):
                site = self._at(tagged(listed(registry, service), tag))
            case names.OfPort(service, port):
                named = [one for one in listed(registry, service) if not port or port in one.record.ports]
                site = self._at(named, port, ports_only=True)
            case names.OfCapability(label):
                site = self._at(capable(registry, label))
            case names.OfNode(node, address):
                held = registry.nodes.get(node)
                site = None if held is None or held.status == "left" else self._node(held, address)
            case None:
                site = None
        return site

    def _apex(self, kind: RdataType) -> Iterator[Record]:
        if kind == SOA:
            yield Record(self._soa())
        elif kind == NS:
            yield Record(records.server_record(self._server), self._glue())

    def _at(self, entries: list[InstanceEntry], port: str = "", *, ports_only: bool = False) -> _Site | None:
        """Returns what is at the name of some instances; None if there are none that anybody lists."""
        if not entries:
            return None
        registry = self._replica.registry

        def site(kind: RdataType) -> Iterator[Record]:
            usable = [one for one in entries if is_usable(registry, one)]
            # Who has no endpoint at all is only found where nobody has one.
            usable = [one for one in usable if one.record.port or one.record.ports] or usable
            if kind == TXT:
                yield from (Record(records.instance_text(one.record)) for one in usable)
                return
            found = list(endpoints(registry, self._mesh, usable, port))
            if kind == SRV:
                yield from (
                    Record(
                        records.service_record(one.entry.record, one.port, one.place.name), _additional(one)
                    )
                    for one in found
                    if one.port
                )
            elif not ports_only:
                yield from _addresses([one.place for one in found], kind)

        return site

    def _node(self, node: NodeEntry, address: Address | None) -> _Site | None:
        """Returns what is at a node's name, or at that of an address that only instances of it have."""
        own = node_address(node)
        if address is not None:
            hosts = (names.address_of(entry.record.host) for entry in node.entries.values())
            if address == own or address not in hosts:
                return None
            return lambda kind: _addresses([Place(self._server, address)], kind)
        places = [Place(names.node_name(self._mesh, node.name), own)]
        if own is None:
            host = "" if node.announced is None else node.announced.host
            alias = names.host_name(host)
            places = [] if alias in {None, places[0].name} else [Place(str(alias), None)]

        def site(kind: RdataType) -> Iterable[Record]:
            return [Record(records.node_text(node))] if kind == TXT else _addresses(places, kind)

        return site

    def _reverse_site(self, name: Name) -> _Site | None:
        """Returns what is at the name of an address: a zone of its own if a node has that address."""
        address = names.reverse_address(name)
        held = self._by_address().get(address, ()) if address else ()
        if not held:
            return None

        def site(kind: RdataType) -> Iterator[Record]:
            if kind == PTR:
                for node in held:
                    yield Record(records.pointer_record(names.node_name(self._mesh, node)))
            else:
                yield from self._apex(kind)

        return site

    def _by_address(self) -> dict[Address, list[str]]:
        """Returns the nodes that have each address; looked through once for each version of the registry."""
        registry = self._replica.registry
        kept = self._nodes_by_address
        if kept is not None and kept[0] is registry and kept[1] == registry.version:
            return kept[2]
        found: dict[Address, list[str]] = {}
        for node in registry.nodes.values():
            if node.announced is None or node.status == "left":
                continue
            said = node.announced
            hosts = (said.host, said.tailscale_ip or "", *said.addresses.values())
            for address in {names.address_of(host) for host in hosts}:
                if address is not None:
                    found.setdefault(address, []).append(node.name)
        self._nodes_by_address = (registry, registry.version, found)
        return found

    def _glue(self) -> tuple[tuple[str, Data], ...]:
        """Returns the address of the name server, which is this node's."""
        node = self._replica.registry.nodes.get(self._server_node)
        address = None if node is None else node_address(node)
        return () if address is None else ((self._server, records.address_record(address)),)

    def _soa(self) -> Data:
        mailbox = f"hostmaster.{self._mesh}."
        return records.authority_record(self._server, mailbox, self._replica.position, self._negative_ttl_s)


def _nothing(_: RdataType) -> Iterable[Record]:
    return ()


def _addresses(places: list[Place], kind: RdataType) -> Iterator[Record]:
    """Yields the A or AAAA records of some hosts; an alias where only the names of all of them are known."""
    known = [place.address for place in places if place.address is not None]
    if known:
        made = (records.address_record(address) for address in known)
        yield from (Record(data) for data in made if data.kind == kind)
    elif kind in {A, AAAA, CNAME}:
        yield from (Record(records.alias_record(place.name)) for place in places)


def _additional(endpoint: Endpoint) -> tuple[tuple[str, Data], ...]:
    place = endpoint.place
    return () if place.address is None else ((place.name, records.address_record(place.address)),)
