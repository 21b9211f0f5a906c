"""The routes that read: each asks the replica and encodes what it says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Final

import msgspec
from aiohttp import web

import pmoves_mesh
from pmoves_mesh.core import query
from pmoves_mesh.core.history import NodesAt, ServicesAt
from pmoves_mesh.core.query import Filter
from pmoves_mesh.errors import NodeNotFound, NothingKnownError, ServiceNotFound
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.http import blocking, choosing, history, inputs, listing
from pmoves_mesh.views.http.answers import INDEX, Answer, encode
from pmoves_mesh.views.http.blocking import BLOCKING, Fingerprint
from pmoves_mesh.views.http.encoded import pieces_of
from pmoves_mesh.views.http.facade import FACADE, Facade
from pmoves_mesh.views.http.found import Found
from pmoves_mesh.views.http.problems import PROBLEM_JSON, problem_of
from pmoves_mesh.views.http.shapes import Health, Index, NodeLoad, Ready
from pmoves_mesh.views.http.watches import WATCHES

ENDPOINTS: Final = web.AppKey("endpoints", dict[str, str])
OPENAPI: Final[web.AppKey[Callable[[], bytes]]] = web.AppKey("openapi")


async def index(request: web.Request) -> Answer:
    """Answers `GET /`."""
    facade = request.app[FACADE]
    mesh = facade.replica.verifier.trust.mesh
    found = Index(
        name="service-registry",
        mesh=mesh,
        node=facade.node,
        version=pmoves_mesh.__version__,
        endpoints=request.app[ENDPOINTS],
    )
    return Answer(parts=[encode(found)])


async def services(request: web.Request) -> Answer:
    """Answers `GET /api/services`: now, at a moment, or once it is another than at an `index`."""
    replica, watches = request.app[FACADE].replica, request.app[WATCHES]
    wanted = inputs.parse_filter(request)
    if (at := history.moment(request, "at")) is not None:
        return await history.told(request, ServicesAt(at=at, wanted=wanted))
    async with watches.using(wanted):
        index = await _blocked(request, ("services", wanted), lambda: watches.state_of(wanted))
    found = await listing.found(replica.registry, wanted)
    if not found.count:
        check_informed(replica)
    body = listing.body({"count": found.count}, services=found)
    return Answer(parts=body, headers={INDEX: str(index)})


async def service(request: web.Request) -> Answer:
    """Answers `GET /api/services/{name}`."""
    facade = request.app[FACADE]
    name = request.match_info["name"].lower()
    if (found := found_at_once(facade, name)) is not None:
        told = found.told(found.count)
        return Answer(parts=told.parts, tag=told.tag)
    registry = facade.replica.registry
    entries = query.resolve(registry, name, node=facade.node)
    if not entries:
        check_informed(facade.replica)
        raise ServiceNotFound(name)
    best = query.instance_view(registry, entries[0])
    return Answer(parts=listing.body(best, instances=await listing.instances(registry, entries)))


def found_at_once(facade: Facade, name: str) -> Found | None:
    """Returns the instances of a service to which a client can be sent; None if there is none, or many."""
    registry = facade.replica.registry
    group = registry.group_of_service(name)
    if not 0 < len(group) <= listing.AT_ONCE:
        return None
    best = query.resolve(registry, name, node=facade.node)
    # What has one instance, as most have, is encoded for this answer alone.
    encode = facade.encoded.of if len(group) > 1 else pieces_of
    return Found.among(_body, registry, group, group.values(), best, encode) if best else None


def _body(items: list[bytes]) -> list[bytes]:
    """Returns the best instance, with all in a list."""
    return [items[0][:-1], b',"instances":[', *items, b"]}"]


async def discover(request: web.Request) -> Answer:
    """Answers `POST /api/discover`."""
    wanted = inputs.choice(await inputs.read_body(request))
    facade = request.app[FACADE]
    if (at_once := choosing.found_at_once(facade, wanted)) is not None:
        told = at_once.told(choosing.counted(at_once, wanted.limit))
        return Answer(parts=told.parts, tag=told.tag)
    found = await choosing.chosen(facade, wanted)
    if not found.count:
        check_informed(facade.replica)
    return Answer(parts=choosing.body(found))


async def nodes(request: web.Request) -> Answer:
    """Answers `GET /api/nodes`: now, at a moment, or once it is another than at an `index`."""
    watches = request.app[WATCHES]
    if (at := history.moment(request, "at")) is not None:
        return await history.told(request, NodesAt(at=at))
    index = await _blocked(request, "nodes", lambda: watches.state_of_nodes)
    found = await listing.nodes(request.app[FACADE].replica.registry)
    return Answer(parts=listing.body({"count": found.count}, nodes=found), headers={INDEX: str(index)})


async def node(request: web.Request) -> Answer:
    """Answers `GET /api/nodes/{name}`."""
    registry = request.app[FACADE].replica.registry
    name = request.match_info["name"].lower()
    held = registry.nodes.get(name)
    if held is None:
        check_informed(request.app[FACADE].replica)
        raise NodeNotFound(name)
    view = query.node_view(held)
    return Answer(parts=listing.body(view, services_detail=await listing.found(registry, Filter(node=name))))


async def load(request: web.Request) -> Answer:
    """Answers `GET /api/nodes/{name}/load`, which alone of all reads of a node is not the replica's."""
    facade = request.app[FACADE]
    name = request.match_info["name"].lower()
    held = facade.replica.registry.nodes.get(name)
    if held is None:
        check_informed(facade.replica)
        raise NodeNotFound(name)
    load, reaches = await asyncio.gather(choosing.load_of(facade, held), choosing.looks_of(facade, held))
    return Answer(parts=[encode(NodeLoad(name=name, load=load, reaches=reaches))])


async def status(request: web.Request) -> Answer:
    """Answers `GET /api/status`."""
    facade: Facade = request.app[FACADE]
    registry = facade.replica.registry
    head: dict[str, object] = {"registry": facade.describe()}
    found = await listing.found(registry, Filter())
    return Answer(parts=listing.body(head, services=found, nodes=await listing.nodes(registry)))


async def _blocked(request: web.Request, name: Hashable, fingerprint: Fingerprint) -> int:
    """Waits until an answer is another than the one that the reader has, and returns its index."""
    index = blocking.parse_index(request)
    patience_s = blocking.parse_patience_s(request)
    return await request.app[BLOCKING].changed(name, fingerprint, index=index, patience_s=patience_s)


def check_informed(replica: Replica) -> None:
    """Keeps a replica that knows nothing yet from saying that there is nothing: clients would act on it.

    Raises:
        NothingKnownError: if this replica has not seen the mesh yet.
    """
    if not replica.is_informed:
        raise NothingKnownError


async def healthz(_: web.Request) -> Answer:
    """Answers `GET /healthz`: the process runs, whatever its replica knows."""
    return Answer(parts=[encode(Health())])


async def readyz(request: web.Request) -> Answer:
    """Answers `GET /readyz`: 200 when the replica is current, else 503."""
    replica = request.app[FACADE].replica
    if replica.is_current:
        return Answer(parts=[encode(Ready(position=replica.position, stale_s=0.0))])
    problem = problem_of(503, "this replica is not current", position=replica.position)
    problem = msgspec.structs.replace(problem, stale_s=replica.stale_s)
    return Answer(parts=[encode(problem)], status=503, content_type=PROBLEM_JSON)


async def openapi(request: web.Request) -> Answer:
    """Answers `GET /openapi.json`."""
    return Answer(parts=[await asyncio.to_thread(request.app[OPENAPI])])
