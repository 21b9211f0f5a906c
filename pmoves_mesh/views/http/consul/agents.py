"""The routes that read `/agent` and `/status`: this agent, its services and checks, and who else is there.

They speak of what this agent holds by itself, so they answer before it has seen the mesh as well.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Final, TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

import pmoves_mesh
from pmoves_mesh.core.names import NodeStatus, shown
from pmoves_mesh.core.registry import NodeEntry
from pmoves_mesh.errors import NotFoundError
from pmoves_mesh.views.http import blocking
from pmoves_mesh.views.http.answers import Answer, encode
from pmoves_mesh.views.http.blocking import BLOCKING, PATIENCE_DEFAULT_S
from pmoves_mesh.views.http.consul.catalogue import CATALOGUE, Catalogue
from pmoves_mesh.views.http.consul.filter import compile_filter
from pmoves_mesh.views.http.consul.question import parse_filter
from pmoves_mesh.views.http.consul.reads import headers
from pmoves_mesh.views.http.consul.rows import Row
from pmoves_mesh.views.http.consul.shapes import (
    AgentShape,
    CheckShape,
    Member,
    OneService,
    ServiceShape,
    Settings,
)
from pmoves_mesh.views.http.facade import FACADE

CONTENT_HASH: Final = "X-Consul-ContentHash"

_STATUS: Final[dict[NodeStatus, int]] = {"alive": 1, "left": 3, "lost": 4}

_Item = TypeVar("_Item", bound=Struct)


def leader(request: web.Request) -> str:
    """Returns whoever counts as the leader: this agent, as long as it knows what the mesh holds."""
    facade = request.app[FACADE]
    here = facade.replica.registry.nodes.get(facade.node)
    return _address(here) if facade.replica.is_informed and here is not None else ""


def peers(request: web.Request) -> list[str]:
    """Returns the addresses of all nodes that live: each could answer as well."""
    nodes = request.app[FACADE].replica.registry.nodes.values()
    return sorted({_address(node) for node in nodes if node.status == "alive"} - {""})


def self_of(request: web.Request) -> AgentShape:
    """Returns what this agent is."""
    catalogue = request.app[CATALOGUE]
    here = catalogue.here()
    settings = Settings(
        datacenter=catalogue.mesh,
        primary_datacenter=catalogue.mesh,
        node_name=catalogue.node,
        node_id=here.id,
        server=False,
        revision="",
        version=pmoves_mesh.__version__,
    )
    member = Member(name=here.node, addr=here.address, port=0, tags=here.meta, status=1)
    stats = {"agent": {"services": str(len(catalogue.own()))}}
    return AgentShape(config=settings, debug_config={}, member=member, meta=here.meta, stats=stats)


def members(request: web.Request) -> list[Member]:
    """Returns every node, those that left or were lost included."""
    catalogue = request.app[CATALOGUE]
    nodes = request.app[FACADE].replica.registry.nodes
    found = []
    for _, node in sorted(nodes.items()):
        shape = catalogue.rows.node_shape(node)
        port = node.announced.port if node.announced else 0
        status = _STATUS[node.status]
        found.append(Member(name=shape.node, addr=shape.address, port=port, tags=shape.meta, status=status))
    return _filtered(request, found, Member)


def services(request: web.Request) -> dict[str, ServiceShape]:
    """Returns this node's instances by their IDs."""
    own = [row.service for row in request.app[CATALOGUE].own()]
    return {service.id: service for service in _filtered(request, own, ServiceShape)}


def checks(request: web.Request) -> dict[str, CheckShape]:
    """Returns the checks of this node and of its instances by their IDs."""
    catalogue = request.app[CATALOGUE]
    found = [check for check in catalogue.node_checks(catalogue.node) if check.check_id != "serfHealth"]
    found += (check for row in catalogue.own() for check in row.checks if check.service_id)
    return {check.check_id: check for check in _filtered(request, found, CheckShape)}


async def service(request: web.Request) -> Answer:
    """Answers `GET agent/service/:id`; with the `hash` that a client has, it waits until that is another.

    Raises:
        NotFoundError: if this node has no such instance.
    """
    catalogue = request.app[CATALOGUE]
    wanted = request.match_info["id"]
    found = find(catalogue, wanted)
    given = request.query.get("hash", "")
    if given and given == _hash(found):
        waiting = request.app[BLOCKING]
        name, look = ("consul", "service", wanted), _look(catalogue, wanted)
        index = await waiting.changed(name, look)
        patience_s = blocking.parse_patience_s(request) or PATIENCE_DEFAULT_S
        await waiting.changed(name, look, index=index, patience_s=patience_s)
        found = find(catalogue, wanted)
    fields = {name: getattr(found.service, name) for name in ServiceShape.__struct_fields__}
    one = OneService(**fields, content_hash=_hash(found))
    return Answer(parts=[encode(one)], headers={**headers(request), CONTENT_HASH: one.content_hash})


def find(catalogue: Catalogue, service_id: str) -> Row:
    """Returns one of this node's instances by its ID.

    Raises:
        NotFoundError: if there is none.
    """
    for row in catalogue.own():
        if row.service.id == service_id:
            return row
    raise NotFoundError(f"no service of this node has the ID {shown(service_id)}")


def _look(catalogue: Catalogue, service_id: str) -> Callable[[], bytes | None]:
    def look() -> bytes | None:
        return next((_digest(row) for row in catalogue.own() if row.service.id == service_id), None)

    return look


def _hash(row: Row) -> str:
    return _digest(row).hex()


def _digest(row: Row) -> bytes:
    plain = msgspec.structs.replace(row.service, create_index=1, modify_index=1)
    return blake2b(encode(plain), digest_size=8).digest()


def _filtered(request: web.Request, found: list[_Item], shape: type[_Item]) -> list[_Item]:
    text = parse_filter(request, shape)
    if not text:
        return found
    fits = compile_filter(text, shape)
    return [item for item in found if fits(item)]


def _address(node: NodeEntry) -> str:
    """Returns where the agent of a node answers; empty for one that has not announced itself."""
    if node.announced is None:
        return ""
    host, port = node.announced.host, node.announced.port
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
