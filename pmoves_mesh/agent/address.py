"""The addresses at which other nodes reach this one."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import structlog

from pmoves_mesh.agent.trust.joining import own_addresses
from pmoves_mesh.config import Config, is_loopback
from pmoves_mesh.tailscale.comparison import is_tailscale
from pmoves_mesh.tailscale.failures import TailscaleError
from pmoves_mesh.tailscale.program import Tailscale, locate
from pmoves_mesh.tailscale.state import TailscaleStatus

_log: Final = structlog.get_logger(__name__)

TAILSCALE: Final = "tailscale"
NATS: Final = "nats"

_LOOPBACK: Final = "127.0.0.1"
_WILDCARDS: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, not bound
_INTERFACE: Final = Path("/sys/class/net/tailscale0")
_MAGIC_DNS: Final = ("100.100.100.100", 53)
"""The interface that Tailscale makes, and what is reached through it alone. Source: tailscale.com/kb/1381."""

_STARTING: Final = frozenset({"NoState", "Starting"})
_POLLS_MAX: Final = 20
_POLL_S: Final = 0.25
_LOOKUP_S: Final = 2.0
_KNOCK_S: Final = 0.5


class Advertised(NamedTuple):
    """Where other nodes reach this one.

    Attributes:
        host: the address to announce.
        addresses: by network, where there are several: `tailscale`, in the tailnet, and `nats`, on the
            network on which NATS is reached; empty if the mesh is on this machine alone.
    """

    host: str
    addresses: dict[str, str]


async def advertised(config: Config) -> Advertised:
    """Returns what to announce: the setting, else Tailscale's address, else the one used towards NATS.

    Loopback is announced only where the whole mesh is on this machine: its NATS listens on loopback
    alone, and nothing says that others come in from outside.
    """
    addresses: dict[str, str] = {}
    if not _is_on_one_machine(config):
        if config.tailscale.mode != "nats" and (found := await _tailscale_address()):
            addresses[TAILSCALE] = found
        if found := await _towards_nats(config):
            addresses.setdefault(NATS, found)
    host = config.advertise_host or next(iter(addresses.values()), _LOOPBACK)
    return Advertised(host, addresses)


def _is_on_one_machine(config: Config) -> bool:
    """Returns whether this node's own NATS is reached from this machine alone."""
    own = config.embedded and is_loopback(config.nats_host)
    return own and all(map(_is_here, config.nats_external))


async def _towards_nats(config: Config) -> str | None:
    """Returns the address that this node has on the network of NATS; None if that is this machine."""
    if config.embedded and not is_loopback(config.nats_host) and config.nats_host not in _WILDCARDS:
        return config.nats_host
    for server in (*config.nats_servers, *config.nats_external):
        parts = urlsplit(server)
        found = None if _is_here(server) else await _source_address(parts.hostname or "", parts.port or 4222)
        if found is not None and not is_loopback(found):
            return found
    listens_everywhere = config.nats_dir is not None or (config.embedded and config.nats_host in _WILDCARDS)
    if listens_everywhere or await _are_reached_from_outside(config.nats_servers):
        return next(iter(own_addresses()), None)
    return None


async def _are_reached_from_outside(servers: Iterable[str]) -> bool:
    """Returns whether a NATS server that is used through loopback also listens where others reach it."""
    own = next(iter(own_addresses()), None)
    if own is None:
        return False
    for server in filter(_is_here, servers):
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_KNOCK_S):
                _, writer = await asyncio.open_connection(own, urlsplit(server).port or 4222)
            writer.close()
            return True
    return False


def _is_here(server: str) -> bool:
    return is_loopback(urlsplit(server).hostname or "")


async def _tailscale_address() -> str | None:
    """Returns this host's address in its tailnet; None if it is in none, or Tailscale cannot be asked.

    After a boot the agent may be there before Tailscale is up, so that is waited for, 5 s at most.
    """
    try:
        locate(os.environ)
    except TailscaleError:
        return await _interface_address()
    status = await asyncio.to_thread(_tailscale_status)
    for _ in range(_POLLS_MAX):
        if status is None or status.backend_state not in _STARTING:
            break
        await asyncio.sleep(_POLL_S)
        status = await asyncio.to_thread(_tailscale_status)
    else:
        _log.warning("tailscale_not_up", remedy="once it is up, start this agent anew")
    if status is None or not status.running or status.myself is None:
        return None
    return status.myself.ipv4 or status.myself.ipv6


def _tailscale_status() -> TailscaleStatus | None:
    try:
        return Tailscale(locate(os.environ), os.environ).status()
    except TailscaleError as error:
        _log.warning("tailscale_unusable", problem=error.problem, remedy=error.remedy)
        return None


async def _interface_address() -> str | None:
    """Returns the address of Tailscale where its program is not: in a container on the host's network."""
    found = await _source_address(*_MAGIC_DNS) if _INTERFACE.exists() else None
    return found if found is not None and is_tailscale(found) else None


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
