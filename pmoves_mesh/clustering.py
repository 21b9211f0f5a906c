"""`PMOVES_NATS_CLUSTER`: the nodes whose embedded nats-servers keep the mesh's streams together."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from pmoves_mesh.core.names import parse_host, parse_label
from pmoves_mesh.errors import ConfigError, InvalidFieldError
from pmoves_mesh.values import Values

SETTING: Final = "PMOVES_NATS_CLUSTER"
SERVERS_MIN: Final = 3
SERVERS_MAX: Final = 9

_RULE: Final = "must be a comma list of name, name=address or name=address:port"


class ClusterNode(Struct, frozen=True, kw_only=True):
    """One of the nodes.

    Attributes:
        address: an address or a host name at which the others reach it; its name where none is given.
        port: where its server listens for the others.
    """

    name: str
    address: str
    port: int

    @property
    def place(self) -> str:
        """Where the others find its server, `host:port`."""
        return at(self.address, self.port)


def at(address: str, port: int) -> str:
    """Returns an address and a port as a URL has them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def read(values: Values, node: str) -> tuple[ClusterNode, ...]:
    """Returns the nodes in their order; none where this node's server is alone.

    Args:
        values: the settings.
        node: this node, which has to be one of them.

    Raises:
        ConfigError: if they cannot be a cluster; says why.
    """
    text = values.text(SETTING)
    if not text:
        return ()
    port = values.integer("PMOVES_NATS_ROUTES_PORT", 1, 65535)
    try:
        found = tuple(_node(item.strip(), port) for item in text.split(","))
        _check(found, node)
    except InvalidFieldError as error:
        raise ConfigError(SETTING, text[:120], error.problem) from None
    return found


def _node(item: str, port: int) -> ClusterNode:
    name, equals, place = item.partition("=")
    parsed = parse_label(name.strip(), SETTING)
    if not equals:
        return ClusterNode(name=parsed, address=parsed, port=port)
    address, port = _place(place.strip(), port)
    return ClusterNode(name=parsed, address=address, port=port)


def _place(text: str, port: int) -> tuple[str, int]:
    """Returns an address and a port; an IPv6 address stands in brackets where a port follows it."""
    address, number = text, ""
    if text.startswith("["):
        address, _, number = text[1:].partition("]")
        number = number.removeprefix(":")
    elif text.count(":") == 1:
        address, _, number = text.partition(":")
    if not number:
        return parse_host(address, SETTING), port
    if not (number.isascii() and number.isdigit() and len(number) <= 5 and 1 <= int(number) <= 65535):
        raise InvalidFieldError(SETTING, f"{_RULE}; {number[:20]!r} is no port")
    return parse_host(address, SETTING), int(number)


def _check(nodes: tuple[ClusterNode, ...], node: str) -> None:
    names = [one.name for one in nodes]
    if len(set(names)) < len(names) or len({one.place for one in nodes}) < len(nodes):
        problem = "must name each node, and each address, once"
    elif len(nodes) % 2 == 0 or not SERVERS_MIN <= len(nodes) <= SERVERS_MAX:
        problem = f"must name an odd number of nodes, {SERVERS_MIN} to {SERVERS_MAX}: most of them decide"
    elif node not in names:
        problem = f"must name this node too, which is {node} (MESH_HOSTNAME)"
    else:
        return
    raise InvalidFieldError(SETTING, problem)
