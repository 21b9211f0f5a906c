"""What a Consul client says of its service and the mesh has no field for: kept in the instance's metadata.

One key, which no key of Consul's metadata can be, holds it. So every replica shows a service as its
client registered it, with the ID, the tags and the name that it chose.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any, Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.names import is_capability, parse_instance_id, sanitise_label
from pmoves_mesh.errors import InvalidFieldError
from pmoves_mesh.views.http.consul.shapes import CheckStatus, TaggedAddress, Weights

KEY: Final = "consul:registration"

SEPARATOR: Final = ":"
"""Stands between service and id in the ID of an instance that no Consul client registered."""

_NOT_ID: Final = re.compile(r"[^A-Za-z0-9_-]+")
_READABLE_MAX: Final = 48


class KeptCheck(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A check as its client named it.

    Attributes:
        status: what it shows until the first finding; empty for critical.
        warning: whether the service reported a warning last, while it is healthy.
        output: of that warning, or of a status that nobody looks after.
    """

    id: str
    name: str
    notes: str = ""
    type: str = ""
    status: CheckStatus | None = None
    warning: bool = False
    output: str = ""


class KeptNode(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A host outside the mesh, on which a service runs that this node only speaks for."""

    name: str
    address: str
    meta: dict[str, str] = {}


class Kept(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is kept of one registration.

    Attributes:
        id: the service's ID.
        service: its name, where that is not the mesh's.
        tags: all of them, where some cannot be capabilities.
        addressed: whether the client gave an address; without one, the node's counts.
        node: where it runs, if not here.
    """

    id: str
    service: str = ""
    tags: tuple[str, ...] = ()
    addressed: bool = False
    weights: Weights | None = None
    tagged_addresses: dict[str, TaggedAddress] = {}
    enable_tag_override: bool = False
    check: KeptCheck | None = None
    node: KeptNode | None = None


def kept_of(record: Instance) -> Kept | None:
    """Returns what is kept of an instance; None if no Consul client registered it."""
    value = record.metadata.get(KEY)
    if value is None:
        return None
    try:
        kept = msgspec.convert(value, Kept)
    except msgspec.ValidationError:
        return None  # somebody else's words; they are shown as any metadata
    if kept.service and not _is_name_of(record, kept.service):
        kept = msgspec.structs.replace(kept, service="")
    return kept


def _is_name_of(record: Instance, name: str) -> bool:
    """Returns whether a name is what the service was called before: nobody may take another's."""
    try:
        return sanitise_label(name, "Name") == record.name
    except InvalidFieldError:
        return False


def keep(kept: Kept) -> dict[str, Any]:
    """Returns what is kept as JSON for an instance's metadata."""
    value: dict[str, Any] = msgspec.to_builtins(kept)
    return value


def id_of(record: Instance, kept: Kept | None) -> str:
    """Returns the ID by which Consul clients know an instance; it is unique on its node."""
    return kept.id if kept is not None else f"{record.name}{SEPARATOR}{record.id}"


def instance_id_of(consul_id: str) -> str:
    """Returns the instance id for an ID that a client chose: the same if it can be one, else made from it."""
    try:
        return parse_instance_id(consul_id)
    except InvalidFieldError:
        digest = blake2b(consul_id.encode(errors="replace"), digest_size=5).hexdigest()
        readable = _NOT_ID.sub("-", consul_id)[:_READABLE_MAX].strip("-_")
        return f"{readable}-{digest}" if readable else digest


def tags_of(record: Instance, kept: Kept | None) -> tuple[str, ...]:
    """Returns an instance's tags: its capabilities, and what its client called so and is none."""
    if kept is None or not kept.tags:
        return record.capabilities
    held = set(record.capabilities)
    own = tuple(tag for tag in kept.tags if tag in held or not is_capability(tag))
    return own + tuple(name for name in record.capabilities if name not in kept.tags)


def meta_of(record: Instance, kept: Kept | None) -> dict[str, str]:
    """Returns an instance's metadata as texts; what is none is written as JSON."""
    return {
        key: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for key, value in record.metadata.items()
        if kept is None or key != KEY
    }
