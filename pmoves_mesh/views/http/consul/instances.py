"""One instance in Consul's words: its service, its checks, and whether a client would see a difference."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Any, Final

import msgspec

from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.registry import InstanceEntry
from pmoves_mesh.views.http.consul.kept import Kept, id_of, meta_of, tags_of
from pmoves_mesh.views.http.consul.shapes import (
    CheckShape,
    CheckStatus,
    NodeShape,
    ServiceShape,
    Weights,
)

NODE_MAINTENANCE: Final = "_node_maintenance"
SERVICE_MAINTENANCE: Final = "_service_maintenance:"

_USUAL: Final = Weights()
_STATUS: Final[dict[str, CheckStatus]] = {"healthy": "passing", "unhealthy": "critical"}


def service_shape(entry: InstanceEntry, kept: Kept | None, node: NodeShape) -> ServiceShape:
    """Returns an instance as it is shown on its node."""
    record = entry.record
    position = max(1, entry.position)
    own_address = record.host == node.address and not (kept is not None and kept.addressed)
    return ServiceShape(
        id=id_of(record, kept),
        service=(kept.service if kept else "") or record.name,
        tags=tags_of(record, kept),
        address="" if own_address else record.host,
        tagged_addresses=kept.tagged_addresses if kept else {},
        meta=meta_of(record, kept),
        port=record.port,
        weights=(kept.weights if kept else None) or _USUAL,
        enable_tag_override=kept.enable_tag_override if kept else False,
        datacenter=node.datacenter,
        create_index=position,
        modify_index=position,
    )


def instance_checks(
    record: Instance, kept: Kept | None, service: ServiceShape, reason: str | None
) -> Iterator[CheckShape]:
    """Yields the checks of an instance itself: one if somebody looks after its health, and maintenance.

    What is in maintenance because its whole node is shows that by the node's check alone.
    """
    node = record.node
    named = kept.check if kept else None
    status = _STATUS.get(record.health_status)
    output = record.health_output
    if status is None and named is not None:
        status, output = named.status or "critical", named.output or output or "not checked yet"
    elif status is None and record.health_url:
        status, output = "critical", output or "not checked yet"
    elif status == "passing" and named is not None and named.warning:
        status, output = "warning", named.output
    if status is not None:
        yield CheckShape(
            node=node,
            check_id=named.id if named else f"service:{service.id}",
            name=named.name if named else f"Service '{service.service}' check",
            status=status,
            notes=named.notes if named else "",
            output=output,
            service_id=service.id,
            service_name=service.service,
            service_tags=service.tags,
            type=named.type if named else "",
            create_index=service.create_index,
            modify_index=service.modify_index,
        )
    if record.maintenance and record.maintenance_reason != reason:
        yield maintenance_check(node, record.maintenance_reason, service)


def maintenance_check(node: str, reason: str, service: ServiceShape | None = None) -> CheckShape:
    """Returns the check that says that a node, or an instance of it, is in maintenance."""
    if service is None:
        return CheckShape(
            node=node,
            check_id=NODE_MAINTENANCE,
            name="Node Maintenance Mode",
            status="critical",
            output=reason,
            type="maintenance",
        )
    return CheckShape(
        node=node,
        check_id=f"{SERVICE_MAINTENANCE}{service.id}",
        name="Service Maintenance Mode",
        status="critical",
        output=reason,
        type="maintenance",
        service_id=service.id,
        service_name=service.service,
        service_tags=service.tags,
        modify_index=service.modify_index,
    )


def look_of(shapes: Iterable[NodeShape | ServiceShape | CheckShape]) -> tuple[Any, ...]:
    """Returns what tells whether a client would see a difference, to be compared with `==`."""
    return tuple(
        _check_look(shape)
        if isinstance(shape, CheckShape)
        else msgspec.structs.replace(shape, create_index=1, modify_index=1)
        for shape in shapes
    )


def _check_look(check: CheckShape) -> tuple[Any, ...]:
    named = (check.node, check.check_id, check.name, check.notes, check.type)
    return (*named, check.status, check.service_id, check.service_name, check.service_tags)


def digest(look: tuple[Any, ...]) -> bytes:
    """Returns a look in a few bytes."""
    return blake2b(msgspec.json.encode(look), digest_size=12).digest()
