"""The routes that write: each hands its caller's wish to the registrar of this node."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from pmoves_mesh.core import query
from pmoves_mesh.core.check import CommandCheck
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.names import parse_instance_id
from pmoves_mesh.errors import NotFoundError, ServiceNotFound
from pmoves_mesh.ports import Maintainer
from pmoves_mesh.views.http import inputs, listing
from pmoves_mesh.views.http.answers import Answer, encode
from pmoves_mesh.views.http.blocking import BLOCKING
from pmoves_mesh.views.http.facade import FACADE
from pmoves_mesh.views.http.guard import check_node, check_runs_here, check_service
from pmoves_mesh.views.http.shapes import (
    MaintenanceWanted,
    Registered,
    Report,
    Reported,
    Unregistered,
)


async def register(request: web.Request) -> Answer:
    """Answers `POST /api/services`: 200 when the event is in the stream, 202 while it waits in the outbox."""
    facade = request.app[FACADE]
    wait = inputs.parse_wait(request)
    wanted = inputs.registration(await inputs.read_body(request))
    check_service(request, wanted.name.strip().lower())
    if isinstance(wanted.check, CommandCheck):
        check_runs_here(request)
    receipt = await facade.registrar.register(wanted, wait=wait)
    registry = facade.replica.registry
    entry = registry.entry(receipt.instance.key)
    if entry is None:
        raise ServiceNotFound(receipt.instance.name)  # somebody removed it while this caller waited
    return _written(encode(Registered(service=query.instance_view(registry, entry))), receipt.position)


async def deregister(request: web.Request) -> Answer:
    """Answers `DELETE /api/services/{name}`: statuses as for `register`."""
    name = request.match_info["name"].lower()
    check_service(request, name)
    position = await request.app[FACADE].registrar.deregister(
        name,
        node=inputs.parse_name(request, "node"),
        instance_id=_instance_id(request),
        wait=inputs.parse_wait(request),
    )
    return _written(encode(Unregistered(name=name)), position)


async def report(request: web.Request) -> Answer:
    """Answers `PUT /api/services/{name}/health`: 200 if nothing changed, else as for `register`."""
    facade = request.app[FACADE]
    if facade.reporter is None:
        raise NotFoundError("this agent takes no reports")
    name = request.match_info["name"].lower()
    said = inputs.decode(await inputs.read_body(request), Report)
    check_service(request, name)
    key, position = await facade.reporter.report(
        name, said.status, said.output, instance_id=_instance_id(request), wait=inputs.parse_wait(request)
    )
    registry = facade.replica.registry
    entry = registry.entry(key)
    if entry is None:
        raise ServiceNotFound(name)
    return _written(encode(Reported(service=query.instance_view(registry, entry))), position)


async def maintain(request: web.Request) -> Answer:
    """Answers `PUT /api/services/{name}/maintenance`: statuses as for `report`."""
    name = request.match_info["name"].lower()
    wanted = inputs.decode(await inputs.read_body(request), MaintenanceWanted)
    check_service(request, name)
    maintainer = _maintainer(request)
    keys, position = await maintainer.maintain(
        name, _reason(wanted), instance_id=_instance_id(request), wait=inputs.parse_wait(request)
    )
    return await _instances(request, keys, position)


async def maintain_node(request: web.Request) -> Answer:
    """Answers `PUT /api/nodes/{name}/maintenance`: statuses as for `report`."""
    name = request.match_info["name"].lower()
    wanted = inputs.decode(await inputs.read_body(request), MaintenanceWanted)
    check_node(request)
    maintainer = _maintainer(request)
    keys, position = await maintainer.maintain_node(name, _reason(wanted), wait=inputs.parse_wait(request))
    request.app[BLOCKING].reconsider()
    return await _instances(request, keys, position)


def _maintainer(request: web.Request) -> Maintainer:
    maintainer = request.app[FACADE].maintainer
    if maintainer is None:
        raise NotFoundError("this agent hides nothing from discovery")
    return maintainer


def _reason(wanted: MaintenanceWanted) -> str | None:
    return wanted.reason if wanted.on else None


def _instance_id(request: web.Request) -> str | None:
    instance_id = request.query.get("id", "")
    return parse_instance_id(instance_id) if instance_id else None


async def _instances(request: web.Request, keys: Sequence[InstanceKey], position: int | None) -> Answer:
    """Returns instances as they are now, whatever of them is still there."""
    registry = request.app[FACADE].replica.registry
    entries = [entry for key in sorted(keys) if (entry := registry.entry(key)) is not None]
    found = await listing.instances(registry, entries)
    parts = listing.body({"count": found.count}, services=found)
    return Answer(parts=parts, status=202 if position == 0 else 200, position=position or None)


def _written(body: bytes, position: int | None) -> Answer:
    return Answer(parts=[body], status=202 if position == 0 else 200, position=position or None)
