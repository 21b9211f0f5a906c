"""What `doctor` tries on the network: this host's own ports, and the way to the others and their services."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pmoves_mesh.agent.health.http_probe import HttpProbe
from pmoves_mesh.agent.health.reach import connect
from pmoves_mesh.cli.console import cell
from pmoves_mesh.cli.findings import Check, Complaint, Host
from pmoves_mesh.cli.launch import check_free
from pmoves_mesh.config import is_loopback
from pmoves_mesh.core.health import Finding
from pmoves_mesh.core.model import Instance
from pmoves_mesh.errors import PkiError, StartError
from pmoves_mesh.pki import keystore
from pmoves_mesh.server.host import holder_of
from pmoves_mesh.server.settings import HOST as LOOPBACK

CONCURRENT_MAX: Final = 32
TRY_S: Final = 2.0
ALL_S: Final = 4.0
COMPLAINTS_MAX: Final = 20

_AGENT_PORT: Final = 8100
_FIREWALL: Final = "see that it is up, and that no firewall or tailnet policy is between"
_Thing = Mapping[str, Any]


def _ports(host: Host) -> Iterator[Complaint]:
    """Where no agent runs: its ports are free, so that it could."""
    config = host.config
    if host.agent.alive:
        return
    try:
        if config.http_port:
            check_free(config.http_host, config.http_port)
    except StartError as error:
        yield Complaint("alarm", str(error), "then: pmoves-mesh up")
    at = LOOPBACK if config.leaf else config.nats_host
    runs_server = config.embedded or config.leaf
    by = _taken(at, config.nats_port, socket.SOCK_STREAM) if runs_server else ""
    # The server of an agent that was killed goes on, and the next agent takes it over.
    if by and "nats-server" not in by:
        yield Complaint(
            "alarm",
            f"port {config.nats_port}, where this host's NATS server is to listen, is taken by {by}",
            "end it, or set PMOVES_NATS_PORT to another, or NATS_URL to the server that is meant",
        )
    if config.dns_port and (by := _taken(config.http_host, config.dns_port, socket.SOCK_DGRAM)):
        what = f"port {config.dns_port}, where DNS is to be answered, is taken by {by}"
        yield Complaint("warning", what, "end it, or set PMOVES_DNS_PORT to another, or to 0")


def _taken(host: str, port: int, kind: socket.SocketKind) -> str:
    """Returns who has a port; empty if it is free."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return holder_of(port)
    return ""


def _peers(host: Host) -> Iterator[Complaint]:
    """The address of each node that lives leads from here to a host that answers."""
    if not host.agent.alive and not host.agent.nodes:
        yield Complaint("warning", "not checked: neither agent nor NATS tells who they are", "pmoves-mesh up")
        return
    own = host.config.node
    others = [one for one in host.agent.nodes if one.get("status") == "alive" and one.get("name") != own]
    if not all(_is_loopback(one) for one in host.agent.nodes):
        # A mesh of one host alone may well use its loopback address.
        yield from _bounded(_misled(one) for one in others if _is_loopback(one))
        others = [one for one in others if not _is_loopback(one)]
    yield from _bounded(_each(others, _try_node))


def _misled(node: _Thing) -> Complaint:
    return Complaint(
        "alarm",
        f"node {cell(node.get('name'))} announces {cell(node.get('host'))}, which leads to no other host",
        "on that host: set PMOVES_ADVERTISE_HOST to an address that the others reach, and restart its agent",
    )


def _is_loopback(node: _Thing) -> bool:
    return is_loopback(str(node.get("host", "")))


async def _try_node(node: _Thing) -> Complaint | None:
    """Tries the port of a node's agent; a refusal comes from a host that is reached, and does."""
    place = str(node.get("host", "")), int(node.get("port") or _AGENT_PORT)
    try:
        async with asyncio.timeout(TRY_S):
            (await connect(*place)).close()
    except ConnectionRefusedError:
        return None
    except TimeoutError:
        problem = f"no answer within {TRY_S:g} s"
    except socket.gaierror:
        problem = "the name has no address"
    except OSError as error:
        problem = error.strerror or str(error)
    else:
        return None
    what = f"node {cell(node.get('name'))} cannot be reached at {cell(place[0])}: {problem}"
    return Complaint("alarm", what, _FIREWALL)


def _health(host: Host) -> Iterator[Complaint]:
    """The health URL of each service of a node that lives answers from here too."""
    if not host.agent.alive and not host.agent.nodes:
        yield Complaint("warning", "not checked: neither agent nor NATS tells of any", "pmoves-mesh up")
        return
    asked = [one for one in host.agent.services if one.get("health_url") and _is_expected(one)]
    own_hosts = {str(one.get("host")) for one in host.agent.nodes if one.get("name") == host.config.node}

    async def ask_all() -> list[Complaint]:
        async with HttpProbe(own_hosts, lambda: _roots(host)) as probe:
            return await _all(asked, lambda one: _try_health(probe, one))

    yield from _bounded(asyncio.run(ask_all()))


def _is_expected(service: _Thing) -> bool:
    return service.get("node_status") == "alive" and not service.get("maintenance")


def _roots(host: Host) -> tuple[Any, ...]:
    try:
        return keystore.read_roots(host.config.tls_dir)
    except PkiError:
        return ()  # said of the identity


async def _try_health(probe: HttpProbe, service: _Thing) -> Complaint | None:
    instance = Instance(
        name=str(service.get("name")),
        id=str(service.get("id")),
        node=str(service.get("node")),
        host=str(service.get("host")),
        health_url=str(service.get("health_url")),
    )
    try:
        async with asyncio.timeout(TRY_S):
            found = await probe(instance)
    except TimeoutError:
        found = Finding(passed=False, output=f"no answer within {TRY_S:g} s", answered=False)
    if found.passed or found.output.startswith("HTTP "):
        return None  # it is reached; how it is, its own node says
    healthy = service.get("health_status") == "healthy" and found.passed is False
    who = f"{cell(service.get('name'))}/{cell(service.get('id'))} on {cell(service.get('node'))}"
    told = ", though its own node finds it healthy" if healthy else ""
    return Complaint(
        "alarm" if healthy else "warning",
        f"{cell(instance.health_url)} of {who}: {found.output}{told}",
        f"let it listen on an address that other hosts reach; {_FIREWALL}" if healthy else "see that it runs",
    )


def _each(
    things: Sequence[_Thing], attempt: Callable[[_Thing], Awaitable[Complaint | None]]
) -> list[Complaint]:
    return asyncio.run(_all(things, attempt))


async def _all(
    things: Sequence[_Thing], attempt: Callable[[_Thing], Awaitable[Complaint | None]]
) -> list[Complaint]:
    """Returns what is wrong with which thing, some tried at once, and how many were left when time was up."""
    found: list[Complaint] = []
    waiting = iter(things)
    done = 0

    async def work() -> None:
        nonlocal done
        for thing in waiting:
            complaint = await attempt(thing)
            done += 1
            if complaint is not None:
                found.append(complaint)

    try:
        async with asyncio.timeout(ALL_S), asyncio.TaskGroup() as group:
            for _ in range(min(CONCURRENT_MAX, len(things))):
                group.create_task(work())
    except TimeoutError:
        what = f"{len(things) - done} of {len(things)} were not tried: {ALL_S:g} s were not enough"
        found.insert(0, Complaint("warning", what, "see to the others, then run it again"))
    return found


def _bounded(complaints: Iterable[Complaint]) -> Iterator[Complaint]:
    """Yields complaints, the worst first, and of too many only how many more there are."""
    listed = sorted(complaints, key=lambda one: one.severity)  # "alarm" before "warning"
    yield from listed[:COMPLAINTS_MAX]
    if more := listed[COMPLAINTS_MAX:]:
        yield Complaint(more[0].severity, f"and {len(more)} more like these", more[0].remedy)


CHECKS: Final = (
    Check("ports", _ports, "this host's are free, or the agent's"),
    Check("peers", _peers, "each node that lives is reached at its address"),
    Check("health URLs", _health, "each is reached from here"),
)
