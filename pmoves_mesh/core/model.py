"""What the mesh knows about: instances, and the stamps that order what is said of them.

These records are the owners' own words, frozen. What a replica adds (who signed it, whether
the node is alive) is kept beside them, in the registry.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta, Struct

from pmoves_mesh.core.names import (
    CAPABILITIES_MAX,
    METADATA_BYTES_MAX,
    NAMED_PORTS_MAX,
    Capability,
    Counter,
    HealthStatus,
    Host,
    InstanceId,
    Label,
    Mode,
    Port,
)
from pmoves_mesh.errors import InvalidFieldError

DEREGISTER_AFTER_DEFAULT_S: Final = 300.0
DEREGISTER_AFTER_MAX_S: Final = 1e9
INSTANCES_PER_NODE_MAX: Final = 100_000
JSON_DEPTH_MAX: Final = 32


class Stamp(NamedTuple):
    """The place of a statement in its node's own order: a later one wins, whatever the order of arrival.

    Incarnation 0 is kept for unsigned nodes, so that any signed statement outranks theirs.
    """

    incarnation: int
    revision: int


NEVER: Final = Stamp(-1, 0)
"""Older than every statement."""


class InstanceKey(NamedTuple):
    """Names one instance in the whole mesh."""

    service: str
    node: str
    id: str


class Instance(Struct, frozen=True, kw_only=True, gc=False):
    """One running copy of a service, as its owner describes it.

    Attributes:
        port: 0 means that the instance is known but has no endpoint.
        ports: further named ports, such as `{"grpc": 9000}`.
        health_output: what the last check said when the status last changed.
        maintenance: whether it is hidden from discovery, by its owner's wish.
        maintenance_reason: why; empty if nobody said so.
        deregister_after: seconds after which the instance of a lost node leaves the registry.
        registered_at: ISO 8601, UTC, by the owner's clock.
        last_seen: ISO 8601, UTC: when the owner last stated this record.
    """

    name: Label
    id: InstanceId
    node: Label
    host: Host
    port: Port = 0
    ports: Annotated[dict[Label, Port], Meta(max_length=NAMED_PORTS_MAX)] = {}
    mode: Mode = "docked"
    capabilities: Annotated[tuple[Capability, ...], Meta(max_length=CAPABILITIES_MAX)] = ()
    health_url: Annotated[str, Meta(max_length=2048)] | None = None
    health_status: HealthStatus = "unknown"
    health_output: Annotated[str, Meta(max_length=4096)] = ""
    maintenance: bool = False
    maintenance_reason: Annotated[str, Meta(max_length=1024)] = ""
    metadata: dict[str, Any] = {}
    deregister_after: Annotated[float, Meta(gt=0, le=DEREGISTER_AFTER_MAX_S)] = DEREGISTER_AFTER_DEFAULT_S
    registered_at: str = ""
    last_seen: str = ""

    @property
    def key(self) -> InstanceKey:
        """The instance's name in the whole mesh."""
        return InstanceKey(self.name, self.node, self.id)


class ManifestEntry(Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """One line of a node's manifest: an instance it holds, and the stamp of its latest statement.

    Attributes:
        incarnation: left out when it is the announcement's own.
    """

    name: Label
    id: InstanceId
    revision: Counter
    incarnation: Counter | None = None


def check_metadata(metadata: dict[str, Any], field: str = "metadata") -> None:
    """Checks the size and the shape of a metadata object.

    Raises:
        InvalidFieldError: if it is larger than 16 KiB as JSON, or `check_json` refuses it.
    """
    check_json(metadata, field)
    size = len(msgspec.json.encode(metadata))
    if size > METADATA_BYTES_MAX:
        raise InvalidFieldError(field, f"{size} bytes as JSON, at most {METADATA_BYTES_MAX}")


def check_json(value: Any, field: str) -> None:
    """Checks that every encoder can write a JSON value again, however it was nested.

    Raises:
        InvalidFieldError: if it is nested more than 32 deep, or holds an integer beyond 64 bits.
    """
    level = [value]
    for _ in range(JSON_DEPTH_MAX + 1):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                deeper.extend(item.values())
            elif isinstance(item, list):
                deeper.extend(item)
            elif isinstance(item, int) and not -(2**63) <= item < 2**63:
                raise InvalidFieldError(field, "holds an integer beyond 64 bits")
        if not deeper:
            return
        level = deeper
    raise InvalidFieldError(field, f"nested more than {JSON_DEPTH_MAX} deep")
