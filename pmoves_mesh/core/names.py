"""Names and bounds: what a node, a service, an instance and a capability may be called.

The bounds are types as well (`Annotated` with `msgspec.Meta`), so that decoding an event
checks them at the speed of the decoder, and functions, for what people type.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Annotated, Final, Literal

from msgspec import Meta

from pmoves_mesh.errors import InvalidFieldError

LABEL_LENGTH_MAX: Final = 63
CAPABILITIES_MAX: Final = 64
METADATA_BYTES_MAX: Final = 16 * 1024
EVENT_BYTES_MAX: Final = 256 * 1024
BODY_BYTES_MAX: Final = 1024 * 1024
NAMED_PORTS_MAX: Final = 32

EVENTS: Final = "MESH_EVENTS"
"""The stream of a mesh."""

REGISTRY: Final = "MESH_REGISTRY"
IDENTITIES: Final = "MESH_IDENTITIES"
LEASES: Final = "MESH_LEASES"

CHECKPOINTS: Final = "MESH_CHECKPOINTS"
"""The store of objects that holds snapshots of the past."""

MATERIALISER: Final = "materialiser"
"""The consumer of the stream that all agents share."""

WITNESS: Final = "witness"
"""The consumer of the leases that all agents share."""

JETSTREAM_API: Final = "$JS.API."

MESH_API: Final = "$MESH.API."
"""How whoever logs in by certificate addresses the JetStream API: see `server/permissions.py`."""

_LABEL: Final = r"\A[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"
_INSTANCE_ID: Final = r"\A[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\Z"
_CAPABILITY: Final = r"\A[A-Za-z0-9]([A-Za-z0-9._:/+ -]{0,62}[A-Za-z0-9+])?\Z"
_HOST: Final = r"\A[A-Za-z0-9:\[]([A-Za-z0-9.:_%\[\]-]{0,252})\Z"

Label = Annotated[str, Meta(pattern=_LABEL)]
"""One DNS label, lower case (RFC 1123): a node's, a service's or a mesh's name."""

InstanceId = Annotated[str, Meta(pattern=_INSTANCE_ID)]
"""Unique for one service on one node; letters, digits, `-` and `_`, up to 63 characters."""

Capability = Annotated[str, Meta(pattern=_CAPABILITY)]
"""What an instance can do, such as `rag` or `gpu:rtx5090`; up to 64 characters."""

Host = Annotated[str, Meta(pattern=_HOST)]
"""A DNS name or an IP address, without a scheme or a port; up to 253 characters."""

Port = Annotated[int, Meta(ge=0, le=65535)]
"""A TCP or UDP port. 0 means: known, but there is no endpoint."""

Counter = Annotated[int, Meta(ge=0, le=2**62)]
"""An incarnation, a revision or a position."""

_SPACE: Final = r"[\s\x1c-\x1f]{0,4}"
"""What is cut off from what callers send; a schema without a bound would ask for pages of it."""

_ASKED_LABEL: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ASKED_ID: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_ASKED_CAPABILITY: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._:/+ -]{0,62}[A-Za-z0-9+])?"
_ASKED_HOST: Final = r"[A-Za-z0-9:\[][A-Za-z0-9.:_%\[\]-]{0,252}"
_ASKED_MODE: Final = r"(?:[Dd][Oo][Cc][Kk][Ee][Dd]|[Ss][Tt][Aa][Nn][Dd][Aa][Ll][Oo][Nn][Ee])"


def _asked(pattern: str) -> Meta:
    """Returns what a published schema says of a text, which is checked by a function with better words."""
    return Meta(extra_json_schema={"pattern": pattern})


AskedLabel = Annotated[str, _asked(rf"^{_SPACE}{_ASKED_LABEL}{_SPACE}$")]
"""What `parse_label` takes."""

AskedPathLabel = Annotated[str, _asked(rf"^{_ASKED_LABEL}$")]
"""A label as a part of a path, in any case."""

AskedId = Annotated[str, _asked(rf"^(?:{_ASKED_ID})?$")]
"""What `parse_instance_id` takes; empty for none."""

AskedHost = Annotated[str, _asked(rf"^(?:{_SPACE}{_ASKED_HOST}{_SPACE})?$")]
"""What `parse_host` takes; empty for none."""

AskedMode = Annotated[str, _asked(rf"^(?:{_SPACE}{_ASKED_MODE}{_SPACE})?$")]
"""A mode in any case; empty for none."""

AskedCapability = Annotated[str, _asked(rf"^{_SPACE}{_ASKED_CAPABILITY}{_SPACE}$")]
AskedCapabilities = Annotated[list[AskedCapability], Meta(extra_json_schema={"maxItems": CAPABILITIES_MAX})]
"""What `parse_capabilities` takes."""

AskedLabelIfAny = Annotated[str, _asked(rf"^{_SPACE}(?:{_ASKED_LABEL}{_SPACE})?$")]
AskedModeIfAny = Annotated[str, _asked(rf"^{_SPACE}(?:{_ASKED_MODE}{_SPACE})?$")]
AskedCapabilityList = Annotated[
    str,
    _asked(
        rf"^{_SPACE}(?:{_ASKED_CAPABILITY})?{_SPACE}(?:,{_SPACE}(?:{_ASKED_CAPABILITY})?{_SPACE}){{0,7}}$"
    ),
]
"""What a parameter of a query takes, where an empty one counts as absent."""

AskedFlag = Annotated[
    str, _asked(rf"^{_SPACE}(?:[Tt][Rr][Uu][Ee]|1|[Yy][Ee][Ss]|[Ff][Aa][Ll][Ss][Ee]|0|[Nn][Oo])?{_SPACE}$")
]
"""A flag of a query; empty sets it."""

AskedWait = Annotated[str, _asked(rf"^{_SPACE}(?:[Nn][Oo][Nn][Ee])?{_SPACE}$")]
"""How long a write waits: `none` for not at all, or nothing."""

AskedPort = Annotated[int, Meta(extra_json_schema={"minimum": 0, "maximum": 65535})]

Mode = Literal["docked", "standalone"]
HealthStatus = Literal["healthy", "unhealthy", "unknown"]
NodeStatus = Literal["alive", "left", "lost"]

_LABEL_RULE: Final = "one DNS label: a-z, 0-9 and '-', not at the ends, at most 63 characters"
_LABEL_RE: Final = re.compile(_LABEL)
_INSTANCE_ID_RE: Final = re.compile(_INSTANCE_ID)
_CAPABILITY_RE: Final = re.compile(_CAPABILITY)
_HOST_RE: Final = re.compile(_HOST)
_NOT_LABEL_RE: Final = re.compile(r"[^a-z0-9-]")


def shown(text: object) -> str:
    """Returns a caller's value cut and quoted, fit for one line of an error."""
    quoted = repr(text)
    return quoted if len(quoted) <= 80 else f"{quoted[:76]}..."


def parse_label(text: str, field: str) -> str:
    """Returns `text` lower-cased, if it is one DNS label.

    Raises:
        InvalidFieldError: if it is not; the error names `field`.

    Source: RFC 1123 section 2.1.
    """
    name = text.strip().lower()
    if not _LABEL_RE.match(name):
        raise InvalidFieldError(field, f"{shown(text)} is not {_LABEL_RULE}")
    return name


def sanitise_label(text: str, field: str) -> str:
    """Returns `text` made into one DNS label: lower-cased, other characters turned into `-`.

    This is how PMOVES installations derive a node's name from a host's name.

    Raises:
        InvalidFieldError: if nothing usable is left.
    """
    name = _NOT_LABEL_RE.sub("-", text.strip().lower())[:LABEL_LENGTH_MAX].strip("-")
    if not name:
        raise InvalidFieldError(field, f"{shown(text)} has no letter or digit to make a name from")
    return name


def parse_instance_id(text: str, field: str = "id") -> str:
    """Returns `text` if it can be an instance's id.

    Raises:
        InvalidFieldError: if it can not.
    """
    if not _INSTANCE_ID_RE.match(text):
        raise InvalidFieldError(
            field,
            f"{shown(text)} is not 1 to 63 letters, digits, '-' or '_' with a letter or digit at the ends",
        )
    return text


def is_capability(text: str) -> bool:
    """Returns whether `text` can be a capability."""
    return _CAPABILITY_RE.match(text) is not None


def parse_capabilities(names: list[str], field: str = "capabilities") -> tuple[str, ...]:
    """Returns `names` without repetitions, in their order.

    Raises:
        InvalidFieldError: if there are more than 64, or one is not a capability.
    """
    if len(names) > CAPABILITIES_MAX:
        raise InvalidFieldError(field, f"{len(names)} given, at most {CAPABILITIES_MAX}")
    stripped = [name.strip() for name in names]
    for index, name in enumerate(stripped):
        if not is_capability(name):
            raise InvalidFieldError(
                f"{field}[{index}]",
                f"{shown(name)} is not 1 to 64 letters, digits or '._:/+ -', a letter or digit at the ends",
            )
    return tuple(dict.fromkeys(stripped))


def parse_host(text: str, field: str = "host") -> str:
    """Returns `text` if it can be a host name or an IP address.

    Raises:
        InvalidFieldError: if it can not.
    """
    host = text.strip()
    if not _HOST_RE.match(host):
        raise InvalidFieldError(field, f"{shown(text)} is not a host name or an IP address")
    return host


@lru_cache(4096)  # whoever signs a thousand instances is named in each of them by the same string
def spiffe_id(mesh: str, kind: str, name: str) -> str:
    """Returns the SPIFFE ID of an identity, such as `spiffe://pmoves-mesh/node/jetson`.

    Source: SPIFFE-ID section 2.
    """
    return f"spiffe://{mesh}/{kind}/{name}"


def bucket_stream(bucket: str) -> str:
    """Returns the name of the stream behind a bucket.

    Source: NATS ADR-8.
    """
    return f"KV_{bucket}"


def object_stream(store: str) -> str:
    """Returns the name of the stream behind a store of objects.

    Source: NATS ADR-20.
    """
    return f"OBJ_{store}"


def inbox_prefix(kind: str, name: str) -> str:
    """Returns where an identity receives answers, and nobody else: `_INBOX.node.jetson`."""
    return f"_INBOX.{kind}.{name}"


def server_name_of(mesh: str) -> str:
    """Returns the host name that a client of `mesh` asks a nats-server for, where it serves several meshes.

    It is never looked up: the server chooses the certificate by it that this mesh trusts.

    Source: RFC 6066 section 3; `.internal` is reserved for private use (ICANN resolution 2024.07.29.06).
    """
    return f"{mesh}.mesh.internal"
