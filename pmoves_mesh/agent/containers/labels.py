"""What a container's labels ask to be registered: from labels and published ports to a `Registration`.

Only a container with the label `pmoves.mesh.name` is registered. Its ports are those inside it; what
others are told is where they are published on this host.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from pmoves_mesh.agent.containers.inspected import Binding, Container
from pmoves_mesh.core.check import Check, DockerCheck, GrpcCheck, HttpCheck, TcpCheck
from pmoves_mesh.core.model import DEREGISTER_AFTER_DEFAULT_S, Instance
from pmoves_mesh.core.names import (
    LABEL_LENGTH_MAX,
    Mode,
    parse_capabilities,
    parse_host,
    parse_instance_id,
    parse_label,
    shown,
)
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import InvalidFieldError

PREFIX: Final = "pmoves.mesh."
NAME_LABEL: Final = f"{PREFIX}name"
MARK: Final = "container"
"""The field of an instance's metadata that says which container it is."""

_PORT: Final = f"{PREFIX}port"
_PORTS: Final = f"{PREFIX}ports."
_METADATA: Final = f"{PREFIX}metadata."
_HOST: Final = f"{PREFIX}host"
_ID: Final = f"{PREFIX}id"
_MODE: Final = f"{PREFIX}mode"
_CAPABILITIES: Final = f"{PREFIX}capabilities"
_HEALTH: Final = f"{PREFIX}health"
_DEREGISTER_AFTER: Final = f"{PREFIX}deregister_after"
_KNOWN: Final = frozenset({NAME_LABEL, _PORT, _HOST, _ID, _MODE, _CAPABILITIES, _HEALTH, _DEREGISTER_AFTER})

_PORT_TEXT: Final = re.compile(r"([0-9]{1,5})(?:/(tcp|udp|sctp))?")
_NOT_ID: Final = re.compile(r"[^A-Za-z0-9_-]+")
_EVERYWHERE: Final = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 - compared with, not bound
_SHORT_ID: Final = 12


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a container asks for.

    Attributes:
        service: the name of its service.
        id: of its instance, never left out.
        unknown: labels of ours that mean nothing, such as misspelt ones.
    """

    service: str
    id: str
    registration: Registration
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Here:
    """This node.

    Attributes:
        host: the address at which others reach it.
        mode: that of an instance that asks for none.
    """

    host: str
    mode: Mode


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a port of a container is reached; no host is this node's own."""

    host: str | None
    port: int


def wanted_by(container: Container, network: Container, here: Here) -> Wanted:
    """Returns what a labelled container asks to be registered.

    Args:
        container: has the label `pmoves.mesh.name`.
        network: the container in whose network it is: itself, but for one that shares another's.
        here: this node.

    Raises:
        InvalidFieldError: if a label cannot be used, or a port is reached by nobody; names the label.
    """
    labels = container.labels
    service = parse_label(labels[NAME_LABEL], NAME_LABEL)
    place, ports = _places(labels, network, here.host)
    host = parse_host(labels[_HOST], _HOST) if labels.get(_HOST) else place.host
    check, health_url = _check(labels.get(_HEALTH, ""), container.id, host or here.host, place.port)
    capabilities = [text for text in labels.get(_CAPABILITIES, "").split(",") if text.strip()]
    registration = Registration(
        name=service,
        id=_instance_id(labels, container.plain_name),
        host=host or here.host,
        port=place.port,
        ports=ports,
        mode=labels.get(_MODE, "").strip().lower() or here.mode,
        capabilities=list(parse_capabilities(capabilities, _CAPABILITIES)),
        health_url=health_url,
        check=check,
        metadata=_metadata(container),
        deregister_after=_seconds(labels.get(_DEREGISTER_AFTER)),
    )
    unknown = tuple(sorted(label for label in labels if label.startswith(PREFIX) and not _is_known(label)))
    return Wanted(service, str(registration.id), registration, unknown)


def is_as_wanted(record: Instance, check: Check | None, wanted: Registration) -> bool:
    """Returns whether an instance is registered just as a container asks."""
    return (
        record.host == wanted.host
        and record.port == wanted.port
        and record.ports == wanted.ports
        and record.mode == wanted.mode
        and list(record.capabilities) == wanted.capabilities
        and record.health_url == wanted.health_url
        and record.metadata == wanted.metadata
        and record.deregister_after == (wanted.deregister_after or DEREGISTER_AFTER_DEFAULT_S)
        and check == wanted.check
    )


def _is_known(label: str) -> bool:
    return label in _KNOWN or label.startswith((_PORTS, _METADATA))


def _instance_id(labels: Mapping[str, str], name: str) -> str:
    """Returns the id that is asked for, or one made from the container's name, which outlives it."""
    if labels.get(_ID):
        return parse_instance_id(labels[_ID].strip(), _ID)
    return parse_instance_id(_NOT_ID.sub("-", name)[:LABEL_LENGTH_MAX].strip("-_"), "the container's name")


def _metadata(container: Container) -> dict[str, Any]:
    asked = {
        label.removeprefix(_METADATA): value
        for label, value in sorted(container.labels.items())
        if label.startswith(_METADATA)
    }
    image = container.config.image
    return {**asked, MARK: {"id": container.id[:_SHORT_ID], "name": container.plain_name, "image": image}}


def _seconds(text: str | None) -> float | None:
    if not text:
        return None
    try:
        return float(text)
    except ValueError:
        raise InvalidFieldError(_DEREGISTER_AFTER, f"{shown(text)} is not a number of seconds") from None


# Health


def _check(text: str, container: str, host: str, port: int) -> tuple[Check | None, str | None]:
    """Returns the check that a label asks for, and the URL that goes with it."""
    kind = text.strip()
    match kind.lower():
        case "" | "docker":
            # The engine itself counts failures before it changes its mind.
            return DockerCheck(container=container, rise=1, fall=1), None
        case "none":
            return None, None
        case ("tcp" | "grpc") as known if port:
            return TcpCheck() if known == "tcp" else GrpcCheck(), None
        case _ if kind.startswith("/") and port:
            return HttpCheck(), f"http://{f'[{host}]' if ':' in host else host}:{port}{kind}"
        case _ if kind.startswith(("http://", "https://")):
            return HttpCheck(), kind
        case "tcp" | "grpc":
            raise InvalidFieldError(_HEALTH, f"{shown(text)} needs a port, and the container has none")
        case _:
            raise InvalidFieldError(
                _HEALTH, f"{shown(text)} is not docker, tcp, grpc, none, a path such as /healthz, or a URL"
            )


# Ports


def _places(labels: Mapping[str, str], network: Container, node_host: str) -> tuple[_Place, dict[str, int]]:
    """Returns where the container's port is reached, and its named ports on the same address."""
    text = labels.get(_PORT, "").strip()
    asked = {_PORT: text} if text else _only_port(network)
    asked |= {label: value for label, value in sorted(labels.items()) if label.startswith(_PORTS)}
    places = {label: _place(value.strip(), label, network, node_host) for label, value in asked.items()}
    main = places.pop(_PORT, _Place(None, 0))
    if not main.port:
        main = _Place(next((one.host for one in places.values()), None), 0)
    for label, place in places.items():
        if place.host != main.host:
            raise InvalidFieldError(label, "is published on another address than the container's other ports")
    return main, {
        parse_label(label.removeprefix(_PORTS), label): place.port for label, place in places.items()
    }


def _only_port(network: Container) -> dict[str, str]:
    """Returns the port of a container that names none: its only one, of TCP if it has others too."""
    if network.on_host_network:
        every, where = list(network.config.exposed_ports or {}), "exposed"
    else:
        every, where = list(network.published), "published"
    found = [port for port in every if port.endswith("/tcp")] or every
    if len(found) > 1:
        raise InvalidFieldError(_PORT, f"is missing, and several are {where}: {', '.join(sorted(found))}")
    return {_PORT: found[0]} if found else {}


def _place(text: str, label: str, network: Container, node_host: str) -> _Place:
    parsed = _PORT_TEXT.fullmatch(text)
    if parsed is None or int(parsed[1]) > 65535:
        raise InvalidFieldError(label, f"{shown(text)} is not a port such as 8080 or 53/udp")
    number, port = int(parsed[1]), f"{int(parsed[1])}/{parsed[2] or 'tcp'}"
    if number == 0 or network.on_host_network:
        return _Place(None, number)
    bindings = [one for one in network.published.get(port, []) if one.host_port.isdecimal()]
    if not bindings:
        others = ", ".join(sorted(network.published)) or "none is"
        raise InvalidFieldError(label, f"port {port} of the container is not published ({others})")
    return _reached(bindings, label, node_host)


def _reached(bindings: Sequence[Binding], label: str, node_host: str) -> _Place:
    """Returns the one of several places that others reach best: at this node's address, if there is one."""
    best = min(bindings, key=lambda binding: _distance(binding.host_ip, node_host))
    host: str | None = best.host_ip
    if host in _EVERYWHERE or host == node_host:
        host = None
    elif _is_loopback(best.host_ip) and not _is_loopback(node_host):
        raise InvalidFieldError(label, f"is published on {best.host_ip} alone, which no other host reaches")
    return _Place(host, int(best.host_port))


def _distance(address: str, node_host: str) -> int:
    """Returns how ill an address to listen on suits those who ask this node; Docker's families may differ."""
    if address == node_host:
        return 0
    if address in _EVERYWHERE:
        return 1 if (address == "::") == (":" in node_host) or not address else 2
    return 4 if _is_loopback(address) else 3


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
