"""The address at which other nodes reach this one."""

from __future__ import annotations

import asyncio
import socket
from typing import Final
from urllib.parse import urlsplit

from pmoves_mesh.config import Config, is_loopback

_LOOPBACK: Final = "127.0.0.1"
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound
_ELSEWHERE: Final = ("192.0.2.1", 9)
"""An address that is on no host, so that its route is the default one. Source: RFC 5737."""
_LOOKUP_S: Final = 2.0


async def advertised_host(config: Config) -> str:
    """Returns the address to announce: the setting, else the one this host uses towards NATS.

    Where NATS is this host's own and others reach it, that is the address it listens on, or the
    one that this host sends from. Loopback is announced only where NATS itself is on loopback,
    so that the whole mesh is on this machine.
    """
    if config.advertise_host is not None:
        return config.advertise_host
    if config.embedded and not is_loopback(config.nats_host):
        if config.nats_host not in _WILDCARDS:
            return config.nats_host
        return await _source_address(*_ELSEWHERE) or _LOOPBACK
    for server in config.nats_servers:
        parts = urlsplit(server)
        found = await _source_address(parts.hostname or _LOOPBACK, parts.port or 4222)
        if found is not None:
            return found
    return _LOOPBACK


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
