"""The routes that write: each hands its caller's wish to the registrar of this node."""

from __future__ import annotations

from aiohttp import web

from pmoves_mesh.core import query
from pmoves_mesh.core.names import parse_instance_id
from pmoves_mesh.errors import ServiceNotFound
from pmoves_mesh.views.http import inputs
from pmoves_mesh.views.http.answers import Answer, encode
from pmoves_mesh.views.http.facade import FACADE
from pmoves_mesh.views.http.guard import check_service
from pmoves_mesh.views.http.shapes import Registered, Unregistered


async def register(request: web.Request) -> Answer:
    """Answers `POST /api/services`: 200 when the event is in the stream, 202 while it waits in the outbox."""
    facade = request.app[FACADE]
    wait = inputs.parse_wait(request)
    wanted = inputs.registration(await inputs.read_body(request))
    check_service(request, wanted.name.strip().lower())
    receipt = await facade.registrar.register(wanted, wait=wait)
    registry = facade.replica.registry
    entry = registry.entry(receipt.instance.key)
    if entry is None:
        raise ServiceNotFound(receipt.instance.name)  # somebody removed it while this caller waited
    return _written(encode(Registered(service=query.instance_view(registry, entry))), receipt.position)


async def deregister(request: web.Request) -> Answer:
    """Answers `DELETE /api/services/{name}`: statuses as for `register`."""
    name = request.match_info["name"].lower()
    instance_id = request.query.get("id", "")
    check_service(request, name)
    position = await request.app[FACADE].registrar.deregister(
        name,
        node=inputs.parse_name(request, "node"),
        instance_id=parse_instance_id(instance_id) if instance_id else None,
        wait=inputs.parse_wait(request),
    )
    return _written(encode(Unregistered(name=name)), position)


def _written(body: bytes, position: int) -> Answer:
    return Answer(parts=[body], status=200 if position else 202, position=position or None)
