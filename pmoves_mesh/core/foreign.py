"""The shapes that PMOVES installations already send, unsigned, read as events of this mesh.

Read only where the mesh accepts unsigned events. What they state is stamped with incarnation 0
and the stream's position, so that any signed statement about the same node outranks it.
"""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import msgspec

from pmoves_mesh.core import wire
from pmoves_mesh.core.event import (
    Event,
    InstanceDeregistered,
    InstanceRegistered,
    NodeAnnounced,
    NodeLeft,
    Removed,
    Stated,
)
from pmoves_mesh.core.model import Instance, check_json, check_metadata
from pmoves_mesh.core.names import (
    CAPABILITIES_MAX,
    EVENT_BYTES_MAX,
    is_capability,
    parse_host,
    sanitise_label,
    shown,
)
from pmoves_mesh.errors import EventTooLarge, InvalidFieldError, MalformedEvent, UnknownKind

OFFLINE_SUBJECT: Final = "mesh.node.offline.v1"

_STATED: Final = frozenset(kind.subject for kind in get_args(Stated))
_REMOVED: Final = frozenset(kind.subject for kind in get_args(Removed))


def read(subject: str, payload: bytes, *, mesh: str, position: int) -> tuple[Event, ...]:
    """Returns what an unsigned message states: a node, an instance, or both.

    Raises:
        UnknownKind: if nobody in the field sends such messages on that subject.
        MalformedEvent: if it is not one of the known shapes; names the field.
        EventTooLarge: if there are more bytes than an event may have.
    """
    if len(payload) > EVENT_BYTES_MAX:
        raise EventTooLarge(len(payload), EVENT_BYTES_MAX)
    try:
        body = msgspec.json.decode(payload, type=dict[str, Any])
        if subject == NodeAnnounced.subject:
            return _announcement(body, mesh, position)
        if subject in {OFFLINE_SUBJECT, NodeLeft.subject}:
            return (NodeLeft(mesh=mesh, node=_node(body), incarnation=0, revision=position),)
        if subject in _STATED or subject in _REMOVED:
            return _record(body, mesh, position, removed=subject in _REMOVED)
    except msgspec.ValidationError as error:
        raise wire.malformed(error) from None
    except InvalidFieldError as error:
        raise MalformedEvent(error.field, error.problem) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent("payload", f"not JSON ({error})") from None
    raise UnknownKind(subject)


def _node(body: dict[str, Any]) -> str:
    for field in ("node", "node_id", "hostname", "name"):
        value = body.get(field)
        if isinstance(value, str) and value.strip():
            return sanitise_label(value, field)
    raise InvalidFieldError("node", "missing; so are node_id, hostname and name")


def _announcement(body: dict[str, Any], mesh: str, position: int) -> tuple[Event, ...]:
    node = _node(body)
    capabilities = _capabilities(body)
    host = _host(body, node)
    port = _port(body.get("port"))
    running = body.get("services_running", body.get("services", ()))
    names = tuple(str(name)[:255] for name in running) if isinstance(running, list) else ()
    address = body.get("tailscale_ip")
    announced = NodeAnnounced(
        mesh=mesh,
        node=node,
        incarnation=0,
        revision=position,
        node_id=str(body.get("node_id", node))[:255],
        hostname=str(body.get("hostname", node))[:255],
        host=host,
        port=port,
        mode=_mode(body),
        caps=dict.fromkeys(capabilities, True),
        capabilities=capabilities,
        services_running=names,
        tailscale_ip=address[:255] if isinstance(address, str) else None,
        resources=_resources(body),
    )
    if port == 0:
        return (announced,)
    record = Instance(
        name=node, id=str(port), node=node, host=host, port=port, mode=_mode(body), capabilities=capabilities
    )
    return announced, _stated(record, mesh, position, removed=False)


def _record(body: dict[str, Any], mesh: str, position: int, *, removed: bool) -> tuple[Event, ...]:
    """Reads the present registry's event: one record, whose node is the host it names."""
    data = body.get("data")
    if not isinstance(data, dict):
        raise InvalidFieldError("data", "missing, or not an object")
    name = sanitise_label(str(data.get("name") or body.get("service") or ""), "data.name")
    node = sanitise_label(str(data.get("node") or data.get("host") or name), "data.host")
    port = _port(data.get("port"))
    metadata = data.get("metadata")
    kept = metadata if isinstance(metadata, dict) else {}
    check_metadata(kept, "data.metadata")
    url = data.get("health_url")
    record = Instance(
        name=name,
        id=str(port),
        node=node,
        host=_host(data, node),
        port=port,
        mode=_mode(data),
        capabilities=_capabilities(data),
        health_url=url[:2048] if isinstance(url, str) and url else None,
        health_status=_health(data.get("health_status")),
        metadata=kept,
        registered_at=str(data.get("registered_at", ""))[:64],
    )
    return (_stated(record, mesh, position, removed=removed),)


def _stated(record: Instance, mesh: str, position: int, *, removed: bool) -> Event:
    kind = InstanceDeregistered if removed else InstanceRegistered
    return kind(
        mesh=mesh, node=record.node, incarnation=0, revision=position, service=record.name, data=record
    )


def _capabilities(body: dict[str, Any]) -> tuple[str, ...]:
    """Returns the names among `capabilities` and `caps`, whether list or object; the rest is not ours."""
    names: list[str] = []
    for field in ("capabilities", "caps"):
        value = body.get(field)
        if isinstance(value, dict):
            names += [name for name, held in value.items() if held is True]
        elif isinstance(value, list):
            names += [name for name in value if isinstance(name, str)]
    unique = dict.fromkeys(name.strip()[:64] for name in names)
    return tuple(name for name in unique if is_capability(name))[:CAPABILITIES_MAX]


def _resources(body: dict[str, Any]) -> dict[str, Any]:
    """Returns the numbers that some announcements mix with their capabilities, and the load."""
    value = body.get("capabilities")
    stated = {"load": body.get("load"), **(value if isinstance(value, dict) else {})}
    found = {
        name: number
        for name, number in stated.items()
        if isinstance(number, int | float) and not isinstance(number, bool)
    }
    check_json(found, "capabilities")
    return found


def _host(body: dict[str, Any], node: str) -> str:
    for field in ("tailscale_ip", "host", "hostname"):
        value = body.get(field)
        if isinstance(value, str) and value.strip():
            return parse_host(value, field)
    return node


def _port(value: Any) -> int:
    if value is None:
        return 0
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 5:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 65535:
        raise InvalidFieldError("port", f"{shown(value)} is not 0 to 65535")
    return value


def _mode(body: dict[str, Any]) -> Literal["docked", "standalone"]:
    return "standalone" if body.get("mode") == "standalone" else "docked"


def _health(value: Any) -> Literal["healthy", "unhealthy", "unknown"]:
    match value:
        case "healthy":
            return "healthy"
        case "unhealthy":
            return "unhealthy"
        case _:
            return "unknown"
