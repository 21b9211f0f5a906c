"""What the names below a mesh's own name ask for, and how the mesh's things are called in DNS.

Source: RFC 2782 (`_service._tcp`), RFC 6763 section 4, RFC 1035 section 2.3.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import dns.exception
import dns.name
import dns.reversename
from dns.name import Name
from msgspec import Struct

from pmoves_mesh.core.names import LABEL_LENGTH_MAX

Address = IPv4Address | IPv6Address

_REMEMBERED_MAX: Final = 16_384
_NOT_LABEL_RE: Final = re.compile(r"[^a-z0-9]+")
_HOST_NAME_RE: Final = re.compile(r"\A[A-Za-z0-9._-]+\Z")
_HEX_RE: Final = re.compile(r"\A([0-9a-f]{8}|[0-9a-f]{32})\Z")
_REVERSE: Final = (dns.reversename.ipv4_reverse_domain, dns.reversename.ipv6_reverse_domain)


class Apex(Struct, frozen=True):
    """The mesh's own name."""


class Branch(Struct, frozen=True):
    """A name that has nothing but names below it.

    Attributes:
        service: below which service; empty where every mesh has the name.
    """

    service: str = ""


class OfService(Struct, frozen=True):
    """The instances of a service.

    Attributes:
        tag: the label of a capability that they have; empty for all of them.
    """

    service: str
    tag: str = ""


class OfPort(Struct, frozen=True):
    """The endpoints of a service at one of its ports.

    Attributes:
        port: the port's name; empty for the main one.
    """

    service: str
    port: str = ""


class OfCapability(Struct, frozen=True):
    """The instances that have a capability, by its label."""

    label: str


class OfNode(Struct, frozen=True):
    """A node.

    Attributes:
        address: not the node's own, but one that instances of it have; None for the node's.
    """

    node: str
    address: Address | None = None


Asked = Apex | Branch | OfService | OfPort | OfCapability | OfNode


def parse(labels: Sequence[bytes]) -> Asked | None:
    """Returns what a name asks for, or None if no name of a mesh is like that.

    Args:
        labels: those before the mesh's name, in any case.
    """
    match [label.decode("ascii", "replace").lower() for label in labels]:
        case []:
            return Apex()
        case ["service" | "cap" | "node"] | ["_tcp", "service"]:
            return Branch()
        case [*words, "service"]:
            return _parse_service(words)
        case [capability, "cap"]:
            return OfCapability(capability)
        case [*words, "node"]:
            return _parse_node(words)
        case _:
            return None


def _parse_service(words: Sequence[str]) -> Asked | None:
    match words:
        case ["_tcp", service]:
            return Branch(service)
        case [service, "_tcp"] if service.startswith("_"):
            return OfPort(service[1:])
        case [port, "_tcp", service] if port.startswith("_"):
            return OfPort(service, port[1:])
        case [service]:
            return OfService(service)
        case [tag, service]:
            return OfService(service, tag)
        case _:
            return None


def _parse_node(words: Sequence[str]) -> Asked | None:
    match words:
        case [node]:
            return OfNode(node)
        case [digits, node] if _HEX_RE.match(digits):
            return OfNode(node, ip_address(bytes.fromhex(digits)))
        case _:
            return None


@lru_cache(_REMEMBERED_MAX)
def label_of(capability: str) -> str:
    """Returns the label that a capability has in DNS: `gpu:rtx5090` is `gpu-rtx5090`.

    Whatever is no letter or digit becomes `-`, so that two capabilities may share a label.
    """
    return _NOT_LABEL_RE.sub("-", capability.lower())[:LABEL_LENGTH_MAX].strip("-")


def node_name(mesh: str, node: str) -> str:
    """Returns the name of a node, absolute as every name here."""
    return f"{node}.node.{mesh}."


def address_name(mesh: str, node: str, address: Address) -> str:
    """Returns the name of an address that a node's instances have, and the node itself has not."""
    return f"{address.packed.hex()}.{node}.node.{mesh}."


@lru_cache(_REMEMBERED_MAX)
def address_of(host: str) -> Address | None:
    """Returns the address that a record's `host` is; None if it is a name, or good on its own host alone."""
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    # One with a scope is of the owner's own links. Source: RFC 4007 section 11.
    return None if isinstance(address, IPv6Address) and address.scope_id else address


@lru_cache(_REMEMBERED_MAX)
def host_name(host: str) -> str | None:
    """Returns the name that a record's `host` is, in lower case; None if DNS has no such name."""
    if not host.strip(".") or not _HOST_NAME_RE.match(host):
        return None
    try:
        return dns.name.from_text(host.lower()).to_text()
    except dns.exception.DNSException:
        return None


def is_reverse(name: Name) -> bool:
    """Returns whether a name is below those that addresses have. Source: RFC 1035 section 3.5, RFC 3596."""
    return any(name.is_subdomain(domain) for domain in _REVERSE)


def reverse_address(name: Name) -> Address | None:
    """Returns the address whose name this is; None if it is that of none, or of a part of one."""
    try:
        return ip_address(dns.reversename.to_address(name))
    except (dns.exception.DNSException, ValueError):
        return None
