"""Who is at the other end of a connection: this host or another, and under which identity."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from aiohttp import web

from pmoves_mesh.core.trust import Signer
from pmoves_mesh.errors import UntrustedIssuer, WriteRefusedError
from pmoves_mesh.tls import peer_certificate
from pmoves_mesh.views.http.facade import FACADE

_REMEMBERED_MAX: Final = 1024


@lru_cache(_REMEMBERED_MAX)  # every request asks, and few hosts ask much
def is_loopback(address: str) -> bool:
    """Returns whether an address is this host's own, which nobody else can send from."""
    found = _parsed(address)
    return found is not None and found.is_loopback


@lru_cache(_REMEMBERED_MAX)
def network_of(address: str) -> str:
    """Returns what stands for one host in a count: its IPv4 address, or its IPv6 network.

    A host has all addresses of a /64 to choose from. Source: RFC 4291 section 2.5.1.
    """
    found = _parsed(address)
    if isinstance(found, IPv6Address):
        return str(ip_network((found, 64), strict=False))
    return str(found or address)


def signer_of(request: web.Request) -> Signer | None:
    """Returns the identity whose certificate a client shows, or None if it shows none.

    The handshake has verified that certificate, but a connection may outlast it.

    Raises:
        WriteRefusedError: if the mesh does not believe it any more.
    """
    der = peer_certificate(request.transport)
    if der is None:
        return None
    facade = request.app[FACADE]
    replica = facade.replica
    trust = replica.verifier.trust
    try:
        signer = trust.admit(der)
    except UntrustedIssuer as error:
        raise WriteRefusedError(str(error), token_helps=False) from None
    if signer.fingerprint in replica.registry.revoked:
        problem = "was revoked"
    elif not trust.holds(signer.root, 0):
        problem = "was issued by a CA that no longer holds"
    elif not signer.not_before_ms <= facade.clock.now_ms() <= signer.not_after_ms:
        problem = "does not hold at this time"
    else:
        return signer
    raise WriteRefusedError(f"the certificate of {signer.id} {problem}", token_helps=False)


def _parsed(address: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
