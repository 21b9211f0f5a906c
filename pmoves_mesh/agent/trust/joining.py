"""What a host that joins has to know: where the CA and NATS are, as other hosts reach them."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from typing import Final

from pmoves_mesh.config import Config, is_loopback
from pmoves_mesh.errors import ConfigError, StartError

_ANYWHERE: Final = ("192.0.2.1", "2001:db8::1", "100.100.100.100")
"""Addresses that are on no host: the default routes', and Tailscale's. Source: RFC 5737, RFC 3849."""

_PORT: Final = 9
_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - read, not bound
_LOOPBACK: Final = "127.0.0.1"


def own_addresses() -> tuple[str, ...]:
    """Returns the addresses that this host sends from, the most usual first; sends nothing."""
    found: dict[str, None] = {}
    for target in _ANYWHERE:
        family = socket.AF_INET6 if ":" in target else socket.AF_INET
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, _PORT))
            address = ip_address(str(probe.getsockname()[0]).partition("%")[0])
            if not address.is_loopback and not address.is_link_local:
                found[str(address)] = None
    return tuple(found)


def check_reachable(config: Config, *, local: bool = False) -> None:
    """Checks that other hosts reach both this one's HTTPS and NATS.

    Raises:
        ConfigError: if the agent picks its own port, which nobody outside it can know.
        StartError: if they do not; says all that is to be set.
    """
    problems = []
    for reached in (ca_urls, nats_urls):
        try:
            reached(config, local=local)
        except StartError as error:
            problems.append(str(error))
    if problems:
        raise StartError("; ".join(problems))


def ca_urls(config: Config, *, local: bool = False) -> tuple[str, ...]:
    """Returns where other hosts reach this one's HTTPS.

    Args:
        config: this host's settings.
        local: whether the other agents run on this very machine.

    Raises:
        ConfigError: if the agent picks its own port, which nobody outside it can know.
        StartError: if other hosts cannot reach it; says what to set.
    """
    if config.http_port == 0:
        raise ConfigError("SERVICE_REGISTRY_PORT", "0", "another host must know the port: 1 to 65535")
    if is_loopback(config.http_host) and not local:
        raise StartError(
            f"other hosts cannot reach this agent, which listens on {config.http_host} alone: set "
            f"SERVICE_REGISTRY_HOST=0.0.0.0 and start it anew (or --local, for an agent on this machine)"
        )
    hosts = _hosts(config, config.http_host, local=local)
    return tuple(f"https://{_bracketed(host)}:{config.http_port}" for host in hosts)


def nats_urls(config: Config, *, local: bool = False) -> tuple[str, ...]:
    """Returns where other hosts reach the mesh's NATS; raises as `ca_urls`."""
    if not config.embedded and config.nats_dir is None:
        return config.nats_external or _reached(config.nats_servers, local=local)
    listens_here = config.nats_dir is None and is_loopback(config.nats_host)
    if listens_here and not local:
        raise StartError(
            f"other hosts cannot reach this agent's NATS server, which listens on {config.nats_host} alone: "
            f"set PMOVES_NATS_HOST=0.0.0.0 and start it anew (or --local, for an agent on this machine)"
        )
    scheme = "nats" if listens_here else "tls"
    own = _WILDCARDS[0] if config.nats_dir is not None else config.nats_host
    hosts = _hosts(config, own, local=local)
    others = [one.address for one in config.nats_cluster if one.name != config.node]
    found = tuple(f"{scheme}://{_bracketed(host)}:{config.nats_port}" for host in (*hosts, *others))
    return tuple(dict.fromkeys((*config.nats_external, *found)))


def joining_settings(config: Config, node: str, *, local: bool = False) -> dict[str, str]:
    """Returns what a node that joins writes into its `env.shared`; raises as `ca_urls`."""
    return {
        "PMOVES_MESH_NAME": config.mesh,
        "MESH_HOSTNAME": node,
        "NATS_URL": ",".join(nats_urls(config, local=local)),
        "PMOVES_CA_URL": ",".join(ca_urls(config, local=local)),
    }


def _reached(servers: Iterable[str], *, local: bool) -> tuple[str, ...]:
    """Returns the NATS servers that others reach too; those on loopback are this host's affair."""
    found = tuple(servers)
    if local or not all(f"//{_LOOPBACK}:" in server or "//localhost:" in server for server in found):
        return found
    raise StartError(
        f"other hosts cannot reach {', '.join(found)}: set NATS_EXTERNAL_URL to where they reach that NATS "
        f"server (or --local, for an agent on this machine)"
    )


def _hosts(config: Config, listening: str, *, local: bool) -> tuple[str, ...]:
    """Returns by which names and addresses others reach what listens on an address."""
    if is_loopback(listening):
        return (_LOOPBACK,)
    if listening not in _WILDCARDS:
        return (listening,)
    named = (config.advertise_host,) if config.advertise_host else own_addresses()
    if not (named or local):
        raise StartError(
            "no address of this host is known: set PMOVES_ADVERTISE_HOST to one that others reach"
        )
    return (*named, *((_LOOPBACK,) if local else ()))


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
