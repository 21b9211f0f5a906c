"""What a caller asks to be registered, and the instance it becomes.

A field left out keeps what an earlier registration said; a field given replaces it, an empty
list or object included.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from pmoves_mesh.core.check import (
    URL_LENGTH_MAX,
    Check,
    GrpcCheck,
    HttpCheck,
    TcpCheck,
    asks_alike,
    check_made,
    check_url,
    parse_check,
)
from pmoves_mesh.core.model import (
    DEREGISTER_AFTER_DEFAULT_S,
    DEREGISTER_AFTER_MAX_S,
    Instance,
    check_metadata,
)
from pmoves_mesh.core.names import (
    LABEL_LENGTH_MAX,
    NAMED_PORTS_MAX,
    AskedCapabilities,
    AskedHost,
    AskedId,
    AskedLabel,
    AskedMode,
    AskedPort,
    Mode,
    parse_capabilities,
    parse_host,
    parse_instance_id,
    parse_label,
    shown,
)
from pmoves_mesh.errors import InvalidFieldError

_NOT_ID_RE: Final = re.compile(r"[^A-Za-z0-9]+")

# What the published schema says of fields that functions check below, with words for people.
_URL: Final = {"pattern": r"^(?:https?://[^\s]+)?$", "maxLength": URL_LENGTH_MAX}
_SECONDS: Final = {"exclusiveMinimum": 0, "maximum": DEREGISTER_AFTER_MAX_S}
_AskedPorts = Annotated[
    dict[AskedLabel, AskedPort], Meta(extra_json_schema={"maxProperties": NAMED_PORTS_MAX})
]


class Registration(Struct, kw_only=True, frozen=True):
    """The body of `POST /api/services`. Fields that are not listed here are ignored.

    Attributes:
        name: the service's name: one DNS label, at most 63 characters.
        id: tells instances of one service on one node apart; by default made from host and port.
        host: where the instance listens; by default the node's own address.
        port: 0 to 65535; 0 means known, but with no endpoint.
        ports: further named ports.
        mode: docked or standalone.
        capabilities: up to 64 names of up to 64 characters.
        health_url: where its health can be asked; http or https. Without a `check` it is what is probed.
        check: how this node finds out whether it is well; null for none but the `health_url`.
        metadata: any JSON object of up to 16 KiB.
        deregister_after: seconds after which it leaves the registry when its node is lost; above 0, up to
            1,000,000,000, 300 by default.
    """

    name: AskedLabel
    id: AskedId | Annotated[int, Meta(extra_json_schema={"minimum": 0})] | UnsetType | None = UNSET
    host: AskedHost | UnsetType | None = UNSET
    port: AskedPort | UnsetType | None = UNSET
    ports: _AskedPorts | UnsetType | None = UNSET
    mode: AskedMode | UnsetType | None = UNSET
    capabilities: AskedCapabilities | UnsetType | None = UNSET
    health_url: Annotated[str, Meta(extra_json_schema=_URL)] | UnsetType | None = UNSET
    check: Check | UnsetType | None = UNSET
    metadata: dict[str, Any] | UnsetType | None = UNSET
    deregister_after: Annotated[float, Meta(extra_json_schema=_SECONDS)] | UnsetType | None = UNSET


def parse_registration(body: bytes) -> Registration:
    """Returns the registration that a request's body asks for; numbers may come as strings.

    Raises:
        InvalidFieldError: if it is not JSON, or a field has the wrong type; names the field.
    """
    try:
        value = msgspec.json.decode(body)
        check = value.pop("check", UNSET) if isinstance(value, dict) else UNSET
        wanted = msgspec.convert(value, Registration, strict=False)
        if check is not UNSET and check is not None:
            check = parse_check(check)
        return msgspec.structs.replace(wanted, check=check)
    except msgspec.ValidationError as error:
        problem, _, path = str(error).partition(" - at `")
        field = path.rstrip("`").removeprefix("$").removeprefix(".")
        raise InvalidFieldError(field or "body", problem) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidFieldError("body", f"not JSON ({error})") from None


def instance_of(
    wanted: Registration, *, node: str, node_host: str, node_mode: Mode, held: Instance | None, now: str
) -> Instance:
    """Returns the instance that a registration makes of what is held already.

    Args:
        wanted: what the caller asks for.
        node: the node that registers it.
        node_host: the node's own address, for an instance that gives none.
        node_mode: the node's own mode, likewise.
        held: the instance as it is registered now, or None.
        now: the time, ISO 8601.

    Raises:
        InvalidFieldError: if a field is out of bounds; names the field.
    """
    base = held or Instance(
        name=parse_label(wanted.name, "name"),
        id=instance_id(wanted, node_host),
        node=node,
        host=node_host,
        mode=node_mode,
        registered_at=now,
    )
    changes: dict[str, Any] = {"last_seen": now}
    if wanted.host:
        changes["host"] = parse_host(wanted.host)
    if wanted.port is not UNSET:
        changes["port"] = parse_port(wanted.port or 0, "port")
    if wanted.ports is not UNSET:
        changes["ports"] = _ports(wanted.ports or {})
    if wanted.mode:
        changes["mode"] = _mode(wanted.mode)
    if wanted.capabilities is not UNSET and wanted.capabilities is not None:
        changes["capabilities"] = parse_capabilities(wanted.capabilities)
    if (health_url := _health_url(wanted)) is not UNSET:
        changes["health_url"] = health_url
        if changes["health_url"] != base.health_url:
            # What was found at the old place says nothing of the new one.
            changes |= {"health_status": "unknown", "health_output": ""}
    if wanted.metadata is not UNSET and wanted.metadata is not None:
        check_metadata(wanted.metadata)
        changes["metadata"] = wanted.metadata
    if wanted.deregister_after is not UNSET:
        changes["deregister_after"] = _seconds(wanted.deregister_after)
    return msgspec.structs.replace(base, **changes)


def check_of(
    wanted: Registration, record: Instance, *, held: Instance | None, held_check: Check | None
) -> tuple[Check | None, Instance]:
    """Returns the check that a registration asks for, and the instance with what is known of its health.

    What an earlier check found holds as long as the same is asked.

    Args:
        wanted: what the caller asks for.
        record: the instance that `instance_of` made of it.
        held: the instance as it is registered now, or None.
        held_check: the check that was asked for earlier, or None.

    Raises:
        InvalidFieldError: if there is nothing to ask; names the field.
    """
    check = held_check if wanted.check is UNSET else wanted.check
    if isinstance(check, HttpCheck):
        if not record.health_url and wanted.check is not UNSET:
            raise InvalidFieldError("check.url", "is missing, and so is health_url")
        # One place for the URL: the record's, which others may ask too.
        check = msgspec.structs.replace(check, url=None) if record.health_url else None
    if isinstance(check, TcpCheck | GrpcCheck) and not (check.port or record.port) and wanted.check:
        raise InvalidFieldError("check.port", "is missing, and the instance has none")
    if held is None:
        return check, record
    status, output = held.health_status, held.health_output
    if not asks_alike(check_made(check, record), check_made(held_check, held)):
        status, output = "unknown", ""
    return check, msgspec.structs.replace(record, health_status=status, health_output=output)


def is_same(one: Instance, other: Instance) -> bool:
    """Returns whether two records differ in nothing but when they were stated."""
    return msgspec.structs.replace(one, last_seen="") == msgspec.structs.replace(other, last_seen="")


def instance_id(wanted: Registration, node_host: str) -> str:
    """Returns the id a registration asks for, or one that stays the same for the same host and port.

    Raises:
        InvalidFieldError: if the id, host or port is out of bounds.
    """
    if wanted.id is not UNSET and wanted.id is not None and wanted.id != "":
        return parse_instance_id(str(wanted.id))
    port = str(parse_port((wanted.port if wanted.port is not UNSET else 0) or 0, "port"))
    host = parse_host(wanted.host) if wanted.host else node_host
    if host == node_host:
        return port
    readable = _NOT_ID_RE.sub("-", host).strip("-")
    return f"{readable[-(LABEL_LENGTH_MAX - len(port) - 1) :].lstrip('-')}-{port}".lstrip("-")


def parse_port(value: int, field: str) -> int:
    """Returns `value` if it is 0 to 65535.

    Raises:
        InvalidFieldError: if it is not; the error names `field`.
    """
    if not 0 <= value <= 65535:
        raise InvalidFieldError(field, f"{shown(value)} is not 0 to 65535")
    return value


def _ports(ports: dict[str, int]) -> dict[str, int]:
    if len(ports) > NAMED_PORTS_MAX:
        raise InvalidFieldError("ports", f"{len(ports)} given, at most {NAMED_PORTS_MAX}")
    return {
        parse_label(name, "ports"): parse_port(port, f"ports.{name[:LABEL_LENGTH_MAX]}")
        for name, port in ports.items()
    }


def _mode(text: str) -> Mode:
    match text.strip().lower():
        case "docked":
            return "docked"
        case "standalone":
            return "standalone"
        case _:
            raise InvalidFieldError("mode", f"{shown(text)} is neither docked nor standalone")


def _health_url(wanted: Registration) -> str | UnsetType | None:
    """Returns the `health_url` that is asked for, by itself or as the URL of an HTTP check."""
    given = wanted.health_url
    asked = wanted.check.url if isinstance(wanted.check, HttpCheck) else None
    if asked is not None:
        if given and given != asked:
            raise InvalidFieldError("check.url", "is not the health_url")
        check_url(asked, "check.url")
        return asked
    if given is UNSET:
        return UNSET
    if not given:
        return None
    check_url(given, "health_url")
    return given


def _seconds(value: float | UnsetType | None) -> float:
    if value is None or value is UNSET:
        return DEREGISTER_AFTER_DEFAULT_S
    if not 0 < value <= DEREGISTER_AFTER_MAX_S:
        problem = f"{shown(value)} is not a number of seconds above 0, up to {DEREGISTER_AFTER_MAX_S:.0f}"
        raise InvalidFieldError("deregister_after", problem)
    return value
