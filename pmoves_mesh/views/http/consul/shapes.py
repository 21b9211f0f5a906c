"""What answers look like: Consul's JSON, as types.

Source: Consul's HTTP API, `/agent`, `/catalog` and `/health`.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from msgspec import Struct

CheckStatus = Literal["passing", "warning", "critical"]

_UPPER: Final = frozenset({"id"})


def pascal(name: str) -> str:
    """Returns a field's name as Consul spells it: `service_id` is `ServiceID`."""
    return "".join(word.upper() if word in _UPPER else word.capitalize() for word in name.split("_"))


class _Shape(Struct, frozen=True, kw_only=True, rename=pascal):
    """A JSON object in Consul's spelling."""


class _Indexed(_Shape, frozen=True, kw_only=True):
    """What stands somewhere in the stream.

    Attributes:
        modify_index: the position of the latest statement; it never goes back.
    """

    create_index: int = 1
    modify_index: int = 1


class Weights(_Shape, frozen=True, kw_only=True):
    """How much traffic an instance wants; kept for clients, and heeded by nothing here."""

    passing: int = 1
    warning: int = 1


class TaggedAddress(_Shape, frozen=True, kw_only=True):
    """A further address of an instance."""

    address: str = ""
    port: int = 0


class NodeShape(_Indexed, frozen=True, kw_only=True):
    """A node.

    Attributes:
        id: a UUID that follows from the names of mesh and node.
    """

    id: str
    node: str
    address: str
    datacenter: str
    tagged_addresses: dict[str, str]
    meta: dict[str, str]


class ServiceShape(_Indexed, frozen=True, kw_only=True):
    """An instance.

    Attributes:
        address: empty for the node's own.
    """

    kind: str = ""
    id: str
    service: str
    tags: tuple[str, ...]
    address: str
    tagged_addresses: dict[str, TaggedAddress]
    meta: dict[str, str]
    port: int
    weights: Weights
    enable_tag_override: bool
    datacenter: str


class CheckShape(_Indexed, frozen=True, kw_only=True):
    """A check of an instance, or of a node if it names no service."""

    node: str
    check_id: str
    name: str
    status: CheckStatus
    notes: str = ""
    output: str = ""
    service_id: str = ""
    service_name: str = ""
    service_tags: tuple[str, ...] = ()
    type: str = ""
    definition: dict[str, Any] = {}


class HealthShape(_Shape, frozen=True, kw_only=True):
    """An instance with its node and its checks, those of the node included."""

    node: NodeShape
    service: ServiceShape
    checks: tuple[CheckShape, ...]


class CatalogShape(_Indexed, frozen=True, kw_only=True):
    """An instance and its node in one flat object."""

    id: str
    node: str
    address: str
    datacenter: str
    tagged_addresses: dict[str, str]
    node_meta: dict[str, str]
    service_kind: str = ""
    service_id: str
    service_name: str
    service_tags: tuple[str, ...]
    service_address: str
    service_tagged_addresses: dict[str, TaggedAddress]
    service_weights: Weights
    service_meta: dict[str, str]
    service_port: int
    service_enable_tag_override: bool


class NodeServices(_Shape, frozen=True, kw_only=True):
    """A node and its instances by their IDs."""

    node: NodeShape
    services: dict[str, ServiceShape]


class OneService(ServiceShape, frozen=True, kw_only=True):
    """An instance of this node, with what tells whether it is still the same."""

    content_hash: str


class Member(_Shape, frozen=True, kw_only=True):
    """A node as a member of a cluster.

    Attributes:
        status: 1 alive, 3 left, 4 lost.
    """

    name: str
    addr: str
    port: int
    tags: dict[str, str]
    status: int
    protocol_min: int = 1
    protocol_max: int = 5
    protocol_cur: int = 2
    delegate_min: int = 2
    delegate_max: int = 5
    delegate_cur: int = 4


class Settings(_Shape, frozen=True, kw_only=True):
    """What an agent says of its configuration."""

    datacenter: str
    primary_datacenter: str
    node_name: str
    node_id: str
    server: bool
    revision: str
    version: str


class AgentShape(_Shape, frozen=True, kw_only=True):
    """This agent."""

    config: Settings
    debug_config: dict[str, Any]
    coord: None = None
    member: Member
    meta: dict[str, str]
    stats: dict[str, dict[str, str]]
