"""Targets: what an agent may ask on a service's behalf.

Services register themselves, and say where their health is to be asked. The agent must not become
their way to what they cannot reach, so it asks the service's own host and this node, and never an
address that hands out a cloud's credentials.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

SCHEMES: Final = frozenset({"http", "https"})

_LOOPBACK_NAME: Final = "localhost"

_NO_HOST: Final = tuple(map(ip_network, ("0.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "ff00::/8")))

_LINK_LOCAL: Final = tuple(map(ip_network, ("169.254.0.0/16", "fe80::/10")))

_METADATA: Final = tuple(
    map(
        ip_network,
        (
            "fd00:ec2::/32",  # Amazon
            "fd20:ce::254/128",  # Google
            "168.63.129.16/32",  # Azure
            "192.0.0.192/32",  # Oracle
            "100.100.100.200/32",  # Alibaba; Tailscale gives no host an address in 100.100.100.0/24
        ),
    )
)

_NAT64: Final = ip_network("64:ff9b::/96")


def target_problem(scheme: str, host: str, allowed: Collection[str]) -> str:
    """Returns why a URL must not be asked, or nothing if it may.

    Args:
        scheme: the URL's, in lower case.
        host: the URL's, without brackets.
        allowed: the canonical names and addresses of the service's host and of this node; loopback
            is allowed in any case.
    """
    if scheme not in SCHEMES:
        return f"{scheme[:16] or 'no scheme'} is neither http nor https"
    return host_problem(host, allowed)


def host_problem(host: str, allowed: Collection[str]) -> str:
    """Returns why a host must not be asked, or nothing if it may; `host` and `allowed` as above."""
    name = canonical(host)
    if not is_loopback(name) and name not in allowed:
        return "its host is neither the service's own nor this node"
    return address_problem(name) if _address(name) is not None else ""


@lru_cache(maxsize=1024)
def canonical(host: str) -> str:
    """Returns a host as it is compared: in lower case, and an address in its shortest form."""
    name = host.strip().rstrip(".").lower()
    address = _address(name)
    return name if address is None else str(address)


@lru_cache(maxsize=1024)
def is_loopback(name: str) -> bool:
    """Returns whether a canonical name or address always is this host itself."""
    address = _address(name)
    return name == _LOOPBACK_NAME if address is None else address.is_loopback


@lru_cache(maxsize=1024)
def address_problem(text: str) -> str:
    """Returns why an address must not be connected to, or nothing if it may."""
    address = _address(text)
    if address is None:
        return "it has no address"
    if any(address in network for network in _NO_HOST):
        return "its address is no host's"
    if any(address in network for network in _LINK_LOCAL):
        return "its address is link-local"
    if any(address in network for network in _METADATA):
        return "its address is a cloud's metadata service"
    return ""


def _address(text: str) -> IPv4Address | IPv6Address | None:
    """Returns the address that packets would go to, whatever it is wrapped in."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address
