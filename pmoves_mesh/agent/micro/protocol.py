"""What microservices say of themselves on `$SRV`, and what that makes of an instance. Pure.

Source: NATS ADR-32 (Service API).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from pmoves_mesh.core.check import TtlCheck
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.names import CAPABILITIES_MAX, is_capability, parse_instance_id, sanitise_label
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import InvalidFieldError, MalformedEvent

PREFIX: Final = "$SRV"
CAPABILITY: Final = "nats-micro"
"""What every service that was found on `$SRV` can do: answer on NATS."""

FIELD: Final = "micro"
"""Where its metadata hold what it said of itself."""

NODE: Final = "node"
"""The field of a microservice's metadata that names the node it runs on."""

ENDPOINTS_MAX: Final = 64

_VERSION: Final = re.compile(r"\A\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?\Z")
_NO_VERSION: Final = "0.0.0"

Verb = Literal["PING", "INFO", "STATS"]
_Name = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_-]{1,63}\Z")]
_Text = Annotated[str, Meta(max_length=1024)]


class Endpoint(Struct, frozen=True, kw_only=True):
    """A subject on which a microservice answers."""

    name: _Text = ""
    subject: _Text = ""
    queue_group: _Text = ""


class Info(Struct, frozen=True, kw_only=True):
    """What a microservice answers on `$SRV.INFO`; what else it says is passed over."""

    name: _Name
    id: Annotated[str, Meta(min_length=1, max_length=256)]
    version: _Text = _NO_VERSION
    description: _Text | None = None
    metadata: dict[str, Any] | None = None
    endpoints: Annotated[list[Endpoint], Meta(max_length=ENDPOINTS_MAX)] | None = None


def parse_info(payload: bytes) -> Info:
    """Returns what a microservice says of itself.

    Raises:
        MalformedEvent: if it is not what the protocol has, or says too much.
    """
    try:
        return msgspec.json.decode(payload, type=Info)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent("info", str(error)) from None


def registration_of(info: Info, ttl_s: float) -> Registration:
    """Returns what a microservice is registered as: an instance without a port, reached by its subjects.

    Whatever it says of an address is not taken over: nobody knows who it is that answers on NATS, and
    nobody must come by another service's traffic in this way.

    Args:
        info: what it says.
        ttl_s: seconds without an answer after which it is unhealthy.

    Raises:
        InvalidFieldError: if its name cannot be made a service's.
    """
    metadata = dict(info.metadata or {})
    wanted = metadata.get("capabilities", "")
    named = [name.strip() for name in wanted.split(",")] if isinstance(wanted, str) else []
    capabilities = [CAPABILITY, *(name for name in named if is_capability(name))]
    metadata[FIELD] = {
        "name": info.name,
        "id": info.id,
        "version": info.version,
        "description": info.description or "",
        "endpoints": [msgspec.structs.asdict(endpoint) for endpoint in info.endpoints or ()],
    }
    return Registration(
        name=sanitise_label(info.name, "name"),
        id=instance_id(info.id),
        port=0,
        capabilities=capabilities[:CAPABILITIES_MAX],
        metadata=metadata,
        check=TtlCheck(ttl_s=ttl_s, remove_after_s=ttl_s),
    )


def instance_id(micro_id: str) -> str:
    """Returns a microservice's id as an instance's: itself where it can be one, else a digest of it."""
    try:
        return parse_instance_id(micro_id)
    except InvalidFieldError:
        return hashlib.sha256(micro_id.encode()).hexdigest()[:32]


def is_micro(record: Instance) -> bool:
    """Returns whether an instance was found on `$SRV`, and so answers there by itself."""
    return CAPABILITY in record.capabilities and isinstance(record.metadata.get(FIELD), dict)


def owner_of(info: Info, nodes: Collection[str]) -> str:
    """Returns the node that registers a microservice: the one that it names, else the same for everybody.

    Args:
        info: what it says.
        nodes: those that live and hear it, at least one.

    Source: D. Thaler, C. Ravishankar, "Using Name-Based Mappings to Increase Hit Rates" (rendezvous hashing).
    """
    named = (info.metadata or {}).get(NODE)
    if isinstance(named, str) and named in nodes:
        return named
    return max(nodes, key=lambda node: hashlib.sha256(f"{node}\0{info.name}\0{info.id}".encode()).digest())


class Asked(Struct, frozen=True, kw_only=True):
    """What somebody wants to know, and of whom; empty for everybody."""

    verb: Verb
    name: str = ""
    id: str = ""


def parse_subject(subject: str) -> Asked | None:
    """Returns what a request asks, by its subject; None if it asks nothing that the protocol has."""
    prefix, *tokens = subject.split(".")
    if prefix != PREFIX or not 1 <= len(tokens) <= 3:
        return None
    verb, name, micro_id = [*tokens, "", ""][:3]
    match verb:
        case "PING" | "INFO" | "STATS":
            return Asked(verb=verb, name=name, id=micro_id)
        case _:
            return None


def micro_id(record: Instance) -> str:
    """Returns what an instance of this mesh is called on `$SRV`, where ids are everybody's."""
    return f"{record.node}-{record.id}"


def answer(asked: Asked, record: Instance) -> bytes | None:
    """Returns what is answered for an instance; None if it is not meant.

    It is reached by its address and not on a subject, so it has no endpoint of this protocol: the
    address stands in its metadata.
    """
    identity = micro_id(record)
    if asked.name not in {"", record.name} or asked.id not in {"", identity}:
        return None
    version = record.metadata.get("version")
    said: dict[str, Any] = {
        "type": f"io.nats.micro.v1.{asked.verb.lower()}_response",
        "name": record.name,
        "id": identity,
        "version": version if isinstance(version, str) and _VERSION.match(version) else _NO_VERSION,
        "metadata": _metadata(record),
    }
    extra: Mapping[Verb, Mapping[str, object]] = {
        "PING": {},
        "INFO": {"description": _description(record), "endpoints": _NOTHING},
        "STATS": {"started": record.registered_at, "endpoints": _NOTHING},
    }
    return msgspec.json.encode({**said, **extra[asked.verb]})


_NOTHING: Final[Sequence[object]] = ()


def _description(record: Instance) -> str:
    said = record.metadata.get("description")
    return said if isinstance(said, str) else f"{record.name} on {record.node}"


def _metadata(record: Instance) -> dict[str, str]:
    """Returns what is known of an instance as the protocol has it: names and texts."""
    own = {name: value for name, value in record.metadata.items() if isinstance(value, str)}
    return {
        **own,
        "node": record.node,
        "host": record.host,
        "port": str(record.port),
        "mode": record.mode,
        "capabilities": ",".join(record.capabilities),
        "health_status": record.health_status,
    }
