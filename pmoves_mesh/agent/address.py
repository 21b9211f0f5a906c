"""The address at which other nodes reach this one."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Final
from urllib.parse import urlsplit

import structlog

from pmoves_mesh.config import Config, is_loopback
from pmoves_mesh.tailscale.failures import TailscaleError
from pmoves_mesh.tailscale.program import Tailscale, locate

_log: Final = structlog.get_logger(__name__)

_LOOPBACK: Final = "127.0.0.1"
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound
_ELSEWHERE: Final = ("192.0.2.1", 9)
"""An address that is on no host, so that its route is the default one. Source: RFC 5737."""
_LOOKUP_S: Final = 2.0


async def advertised_host(config: Config) -> str:
    """Returns the address to announce: the setting, else Tailscale's, else the one used towards NATS.

    Where NATS is this host's own and listens on one address, the mesh is on the network of that
    address, so it is announced; where it listens on all, the one that this host sends from is.
    Loopback is announced only where NATS itself is on loopback, so that the whole mesh is on this
    machine; a NATS of others on loopback may have further hosts, which Tailscale then reaches.
    """
    if config.advertise_host is not None:
        return config.advertise_host
    if config.embedded and config.nats_host not in _WILDCARDS:
        return _LOOPBACK if is_loopback(config.nats_host) else config.nats_host
    found = None if config.tailscale.mode == "nats" else await asyncio.to_thread(_tailscale_address)
    if found is not None:
        return found
    if config.embedded:
        return await _source_address(*_ELSEWHERE) or _LOOPBACK
    for server in config.nats_servers:
        parts = urlsplit(server)
        found = await _source_address(parts.hostname or _LOOPBACK, parts.port or 4222)
        if found is not None:
            return found
    return _LOOPBACK


def _tailscale_address() -> str | None:
    """Returns this host's address in its tailnet; None if it is in none, or Tailscale cannot be asked."""
    try:
        status = Tailscale(locate(os.environ), os.environ).status()
    except TailscaleError as error:
        if error.kind != "not_installed":
            _log.warning("tailscale_unusable", problem=error.problem, remedy=error.remedy)
        return None
    if not status.running or status.myself is None:
        return None
    return status.myself.ipv4 or status.myself.ipv6


async def _source_address(host: str, port: int) -> str | None:
    """Returns the address that packets to `host` would leave from; nothing is sent."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_LOOKUP_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, TimeoutError):
        return None
    for family, kind, protocol, _, target in found:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.connect(target)
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None
