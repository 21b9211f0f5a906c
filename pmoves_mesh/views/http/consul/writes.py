"""The routes that write `/agent`: a client's services and checks become this node's own registrations.

A write is answered when it is durable here, as Consul's agent answers, and is on its way to the stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from aiohttp import web

from pmoves_mesh.core.check import CommandCheck, TtlCheck
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.names import HealthStatus, shown
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import InvalidFieldError, NotFoundError
from pmoves_mesh.ports import Maintainer
from pmoves_mesh.views.http import inputs
from pmoves_mesh.views.http.answers import TEXT, Answer
from pmoves_mesh.views.http.blocking import BLOCKING
from pmoves_mesh.views.http.consul.agents import find
from pmoves_mesh.views.http.consul.bodies import CheckWanted, ServiceWanted, StatusReported, decode
from pmoves_mesh.views.http.consul.catalogue import CATALOGUE, Catalogue
from pmoves_mesh.views.http.consul.checks import parse_status
from pmoves_mesh.views.http.consul.kept import KeptCheck, kept_of
from pmoves_mesh.views.http.consul.question import parse_flag
from pmoves_mesh.views.http.consul.registering import (
    Setting,
    label_of,
    registration_of,
    service_id_of,
    with_check,
    with_warning,
    without_check,
)
from pmoves_mesh.views.http.consul.rows import Row
from pmoves_mesh.views.http.consul.shapes import CheckShape, CheckStatus
from pmoves_mesh.views.http.facade import FACADE
from pmoves_mesh.views.http.guard import check_node, check_runs_here, check_service

_OUTPUT_LENGTH_MAX = 4096
_REASON_LENGTH_MAX = 1024
_NO_REASON = "no reason was given"
_DONE = Answer(parts=[b""], content_type=TEXT)


async def register_service(request: web.Request) -> Answer:
    """Answers `PUT agent/service/register`."""
    wanted = decode(await inputs.read_body(request), ServiceWanted)
    check_service(request, label_of(wanted))
    await put_service(request, wanted, replace_checks=parse_flag(request, "replace-existing-checks"))
    return _DONE


async def put_service(request: web.Request, wanted: ServiceWanted, *, replace_checks: bool = False) -> None:
    """Registers an instance of this node, in the place of whatever has its ID.

    Raises:
        InvalidFieldError: if a field asks what cannot be had here.
        WriteRefusedError: if a command is to be run, and the request comes from another host.
    """
    facade, catalogue = request.app[FACADE], request.app[CATALOGUE]
    service_id = service_id_of(wanted)
    async with lock_of(catalogue, service_id):
        before = next((row for row in catalogue.own() if row.service.id == service_id), None)
        held = None if before is None else record_of(request, before)
        at = Setting(
            host=catalogue.here().address, names=own_names(request), held=held, replace_checks=replace_checks
        )
        asked = registration_of(wanted, at)
        await _register(request, asked)
        if before is not None and before.key.service != asked.name:
            await facade.registrar.deregister(before.key.service, instance_id=before.key.id, wait=False)
        row = find(catalogue, service_id)
        await _begin(request, row, asked)


async def deregister_service(request: web.Request) -> Answer:
    """Answers `PUT agent/service/deregister/:id`."""
    facade, catalogue = request.app[FACADE], request.app[CATALOGUE]
    async with lock_of(catalogue, request.match_info["id"]):
        row = find(catalogue, request.match_info["id"])
        check_service(request, row.key.service)
        await facade.registrar.deregister(row.key.service, instance_id=row.key.id, wait=False)
    return _DONE


async def register_check(request: web.Request) -> Answer:
    """Answers `PUT agent/check/register`."""
    catalogue = request.app[CATALOGUE]
    wanted = decode(await inputs.read_body(request), CheckWanted)
    if not wanted.service_id:
        raise InvalidFieldError("ServiceID", "is missing: a check here is one of an instance")
    if not (wanted.name or wanted.check_id or wanted.id):
        raise InvalidFieldError("Name", "is missing")
    async with lock_of(catalogue, wanted.service_id):
        row = find(catalogue, wanted.service_id)
        check_service(request, row.key.service)
        asked = with_check(record_of(request, row), wanted, own_names(request))
        await _register(request, asked)
        await _begin(request, find(catalogue, wanted.service_id), asked)
    return _DONE


async def deregister_check(request: web.Request) -> Answer:
    """Answers `PUT agent/check/deregister/:id`."""
    catalogue = request.app[CATALOGUE]
    row, _ = find_check(catalogue, request.match_info["id"])
    check_service(request, row.key.service)
    async with lock_of(catalogue, row.service.id):
        row, _ = find_check(catalogue, request.match_info["id"])
        await _register(request, without_check(record_of(request, row)))
    return _DONE


async def pass_check(request: web.Request) -> Answer:
    """Answers `PUT agent/check/pass/:id`."""
    return await _reported(request, "passing", request.query.get("note", ""))


async def warn_check(request: web.Request) -> Answer:
    """Answers `PUT agent/check/warn/:id`."""
    return await _reported(request, "warning", request.query.get("note", ""))


async def fail_check(request: web.Request) -> Answer:
    """Answers `PUT agent/check/fail/:id`."""
    return await _reported(request, "critical", request.query.get("note", ""))


async def update_check(request: web.Request) -> Answer:
    """Answers `PUT agent/check/update/:id`."""
    said = decode(await inputs.read_body(request), StatusReported)
    return await _reported(request, parse_status(said.status), said.output)


async def maintain_service(request: web.Request) -> Answer:
    """Answers `PUT agent/service/maintenance/:id`."""
    row = find(request.app[CATALOGUE], request.match_info["id"])
    check_service(request, row.key.service)
    reason = _reason(request)
    await _maintainer(request).maintain(row.key.service, reason, instance_id=row.key.id, wait=False)
    return _DONE


async def maintain_node(request: web.Request) -> Answer:
    """Answers `PUT agent/maintenance`."""
    check_node(request)
    await _maintainer(request).maintain_node(request.app[FACADE].node, _reason(request), wait=False)
    request.app[BLOCKING].reconsider()
    return _DONE


def lock_of(catalogue: Catalogue, service_id: str) -> asyncio.Lock:
    """Returns what is held while the instance of an ID is read and written again."""
    return catalogue.writing[hash(service_id) % len(catalogue.writing)]


def record_of(request: web.Request, row: Row) -> Instance:
    """Returns the instance that a row shows, as it is registered now.

    Raises:
        NotFoundError: if it went meanwhile.
    """
    entry = request.app[FACADE].replica.registry.entry(row.key)
    if entry is None:
        raise NotFoundError(f"no service of this node has the ID {shown(row.service.id)}")
    return entry.record


def own_names(request: web.Request) -> Collection[str]:
    """Returns what this node is called, and its address."""
    facade, here = request.app[FACADE], request.app[CATALOGUE].here()
    return {facade.node, *facade.names, *([here.address] if here.address else [])}


def find_check(catalogue: Catalogue, check_id: str) -> tuple[Row, CheckShape]:
    """Returns a check of one of this node's instances, and that instance.

    Raises:
        NotFoundError: if there is none of that ID.
    """
    for row in catalogue.own():
        for check in row.checks:
            if check.check_id == check_id and check.service_id and check.type != "maintenance":
                return row, check
    raise NotFoundError(f"no check of this node has the ID {shown(check_id)}")


async def _register(request: web.Request, asked: Registration) -> None:
    if isinstance(asked.check, CommandCheck):
        check_runs_here(request)
    await request.app[FACADE].registrar.register(asked, wait=False)


async def _begin(request: web.Request, row: Row, asked: Registration) -> None:
    """Takes the status with which a service's own reports begin as the first of them."""
    record = record_of(request, row)
    kept = kept_of(record)
    named = None if kept is None else kept.check
    if isinstance(asked.check, TtlCheck) and named and named.status and record.health_status == "unknown":
        await _report(request, row, named.status, named.output)


async def _reported(request: web.Request, status: CheckStatus, output: str) -> Answer:
    catalogue = request.app[CATALOGUE]
    row, _ = find_check(catalogue, request.match_info["id"])
    check_service(request, row.key.service)
    async with lock_of(catalogue, row.service.id):
        row, _ = find_check(catalogue, request.match_info["id"])
        await _report(request, row, status, output)
    return _DONE


async def _report(request: web.Request, row: Row, status: CheckStatus, output: str) -> None:
    """Takes in what a service says of itself; a warning is kept beside, since it still is well."""
    reporter = request.app[FACADE].reporter
    if reporter is None:
        raise NotFoundError("this agent takes no reports")
    health: HealthStatus = "unhealthy" if status == "critical" else "healthy"
    said = output[:_OUTPUT_LENGTH_MAX]
    await reporter.report(row.key.service, health, said, instance_id=row.key.id, wait=False)
    record = record_of(request, row)
    kept = kept_of(record)
    named = kept.check if kept else None
    warns, warned = status == "warning", named is not None and named.warning
    if warns != warned or (warns and named is not None and named.output != said):
        named = named or KeptCheck(
            id=f"service:{row.service.id}", name=f"Service '{row.service.service}' check", type="ttl"
        )
        await _register(request, with_warning(record, named, said, warns=warns))


def _reason(request: web.Request) -> str | None:
    """Returns why something is to be in maintenance; None if that ends.

    Raises:
        InvalidFieldError: if the request does not say which.
    """
    if "enable" not in request.query:
        raise InvalidFieldError("enable", "is missing")
    if not parse_flag(request, "enable"):
        return None
    return request.query.get("reason", "")[:_REASON_LENGTH_MAX] or _NO_REASON


def _maintainer(request: web.Request) -> Maintainer:
    maintainer = request.app[FACADE].maintainer
    if maintainer is None:
        raise NotFoundError("this agent hides nothing from discovery")
    return maintainer
