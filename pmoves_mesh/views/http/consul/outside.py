"""The routes that write `/catalog`: services on hosts outside the mesh, which this node speaks for.

The mesh has no owner but its nodes. So what is registered here is an instance of this very node whose
host is the address that is given; it lives as long as this node does, and nobody checks it.
"""

from __future__ import annotations

import msgspec
from aiohttp import web

from pmoves_mesh.core.names import parse_host, shown
from pmoves_mesh.errors import InvalidFieldError, NotOwnerError
from pmoves_mesh.views.http import inputs
from pmoves_mesh.views.http.answers import Answer
from pmoves_mesh.views.http.consul.bodies import (
    CheckWanted,
    EntityUnwanted,
    EntityWanted,
    check_meta,
    decode,
)
from pmoves_mesh.views.http.consul.catalogue import CATALOGUE, Catalogue
from pmoves_mesh.views.http.consul.kept import KeptNode
from pmoves_mesh.views.http.consul.question import check_datacenter
from pmoves_mesh.views.http.consul.registering import Setting, label_of, registration_of, service_id_of
from pmoves_mesh.views.http.consul.registering import without_check as unchecked
from pmoves_mesh.views.http.consul.rows import Row
from pmoves_mesh.views.http.consul.writes import lock_of, put_service, record_of
from pmoves_mesh.views.http.facade import FACADE
from pmoves_mesh.views.http.guard import check_service

_DONE = Answer(parts=[b"true"])
_NODE_LENGTH_MAX = 253


async def register(request: web.Request) -> Answer:
    """Answers `PUT catalog/register`."""
    facade, catalogue = request.app[FACADE], request.app[CATALOGUE]
    wanted = decode(await inputs.read_body(request), EntityWanted)
    check_datacenter(wanted.datacenter, catalogue.mesh)
    _check_owner(request, wanted.node)
    checks = tuple(_static(one) for one in (wanted.check, *wanted.checks) if one is not None)
    if wanted.service is None:
        raise InvalidFieldError("Service", "is missing: a host is known here by its services alone")
    service = msgspec.structs.replace(wanted.service, checks=[*wanted.service.checks, *checks])
    check_service(request, label_of(service))
    if wanted.node.lower() == catalogue.node:
        await put_service(request, service)
        return _DONE
    check_meta(wanted.node_meta, "NodeMeta")
    outside = KeptNode(name=wanted.node, address=parse_host(wanted.address, "Address"), meta=wanted.node_meta)
    service_id = service_id_of(service)
    async with lock_of(catalogue, service_id):
        before = _find(catalogue, wanted.node, service_id)
        held = None if before is None else record_of(request, before)
        asked = registration_of(service, Setting(host=outside.address, held=held), outside=outside)
        await facade.registrar.register(asked, wait=False)
        if before is not None and before.key.service != asked.name:
            await facade.registrar.deregister(before.key.service, instance_id=before.key.id, wait=False)
    return _DONE


async def deregister(request: web.Request) -> Answer:
    """Answers `PUT catalog/deregister`: what is not there has gone already."""
    facade, catalogue = request.app[FACADE], request.app[CATALOGUE]
    unwanted = decode(await inputs.read_body(request), EntityUnwanted)
    check_datacenter(unwanted.datacenter, catalogue.mesh)
    _check_owner(request, unwanted.node)
    if unwanted.node.lower() == catalogue.node and not (unwanted.service_id or unwanted.check_id):
        raise InvalidFieldError("ServiceID", "is missing: this node itself leaves when its agent ends")
    for row in _rows(catalogue, unwanted.node):
        if unwanted.service_id not in {"", row.service.id}:
            continue
        if unwanted.check_id and unwanted.check_id not in {check.check_id for check in row.checks}:
            continue
        check_service(request, row.key.service)
        async with lock_of(catalogue, row.service.id):
            if unwanted.check_id:
                await facade.registrar.register(unchecked(record_of(request, row)), wait=False)
            else:
                await facade.registrar.deregister(row.key.service, instance_id=row.key.id, wait=False)
    return _DONE


def _check_owner(request: web.Request, node: str) -> None:
    """Checks that a node is this one, or none of the mesh's.

    Raises:
        InvalidFieldError: if it has no name that can be shown.
        NotOwnerError: if it is another node's affair.
    """
    if not node.strip() or len(node) > _NODE_LENGTH_MAX or not node.isprintable():
        raise InvalidFieldError("Node", f"{shown(node)} is not 1 to {_NODE_LENGTH_MAX} printable characters")
    name, facade = node.lower(), request.app[FACADE]
    if name != facade.node and name in facade.replica.registry.nodes:
        raise NotOwnerError("", (name,))


def _rows(catalogue: Catalogue, node: str) -> list[Row]:
    name = node.lower()
    return [row for row in catalogue.spoken_for() if row.node.node.lower() == name]


def _find(catalogue: Catalogue, node: str, service_id: str) -> Row | None:
    return next((row for row in _rows(catalogue, node) if row.service.id == service_id), None)


def _static(wanted: CheckWanted) -> CheckWanted:
    """Returns a check of which only the status counts, which the catalogue is told and nobody finds."""
    return CheckWanted(
        id=wanted.id,
        check_id=wanted.check_id,
        name=wanted.name,
        notes=wanted.notes,
        status=wanted.status,
        output=wanted.output,
    )
