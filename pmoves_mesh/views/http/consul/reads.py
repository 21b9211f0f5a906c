"""The routes that read `/catalog` and `/health`: blocking queries, answered from the replica."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
from aiohttp import web
from msgspec import Struct

from pmoves_mesh.errors import NothingKnownError
from pmoves_mesh.replica import Replica
from pmoves_mesh.views.http import blocking
from pmoves_mesh.views.http.answers import Answer, encode
from pmoves_mesh.views.http.blocking import BLOCKING, PATIENCE_DEFAULT_S
from pmoves_mesh.views.http.consul.catalogue import CATALOGUE, Catalogue
from pmoves_mesh.views.http.consul.findings import Gather
from pmoves_mesh.views.http.consul.question import Question, parse_flag, parse_question
from pmoves_mesh.views.http.facade import FACADE

INDEX: Final = "X-Consul-Index"
KNOWN_LEADER: Final = "X-Consul-KnownLeader"
LAST_CONTACT: Final = "X-Consul-LastContact"

Handler = Callable[[web.Request], Awaitable[Answer]]


def blocked(gather: Gather, shape: type[Struct], *, whole: bool = False) -> Handler:
    """Returns the handler of a route.

    Args:
        gather: finds its answer.
        shape: the type of the answer's items, for filters.
        whole: whether it looks at every instance of the mesh.
    """

    async def handle(request: web.Request) -> Answer:
        replica, catalogue = request.app[FACADE].replica, request.app[CATALOGUE]
        asked = parse_question(request, shape, mesh=catalogue.mesh, node=catalogue.node)
        _check_known(replica, consistent=parse_flag(request, "consistent"))
        if whole:
            await catalogue.prepare()
        index = await _wait(request, gather, asked)
        _check_known(replica, consistent=parse_flag(request, "consistent"))
        return Answer(parts=[encode(gather(catalogue, asked).body)], headers=headers(request, index))

    return handle


def headers(request: web.Request, index: int | None = None) -> dict[str, str]:
    """Returns what Consul's answers carry: how far behind this replica is, and where the answer stands.

    Args:
        request: what is answered.
        index: of the answer; None for one that cannot be waited for.
    """
    replica = request.app[FACADE].replica
    current, stale_s = replica.is_current, replica.stale_s or 0.0
    found = {
        KNOWN_LEADER: "true" if current else "false",
        LAST_CONTACT: "0" if current else str(round(stale_s * 1000)),
    }
    if index is not None:
        found[INDEX] = str(index)
    if "cached" in request.query:
        found |= {"X-Cache": "HIT", "Age": str(int(stale_s))}
    return found


def datacenters(request: web.Request) -> list[str]:
    """Returns the only datacenter that this mesh is."""
    return [request.app[CATALOGUE].mesh]


def plain(found: Callable[[web.Request], Any]) -> Handler:
    """Returns the handler of a route that nobody waits for."""

    async def handle(request: web.Request) -> Answer:
        return Answer(parts=[msgspec.json.encode(found(request))], headers=headers(request))

    return handle


async def _wait(request: web.Request, gather: Gather, asked: Question) -> int:
    """Waits until an answer looks different from what the client has, and returns its index."""
    catalogue = request.app[CATALOGUE]
    patience_s = blocking.parse_patience_s(request) or PATIENCE_DEFAULT_S
    return await request.app[BLOCKING].changed(
        ("consul", gather.__name__, asked),
        _look(gather, catalogue, asked),
        index=blocking.parse_index(request),
        patience_s=patience_s,
    )


def _look(gather: Gather, catalogue: Catalogue, asked: Question) -> blocking.Fingerprint:
    return lambda: gather(catalogue, asked).look


def _check_known(replica: Replica, *, consistent: bool) -> None:
    """Keeps a replica that knows nothing from saying that there is nothing.

    Raises:
        NothingKnownError: if it never held what the stream held, or does not now and is asked for that.
    """
    if not replica.is_informed or (consistent and not replica.is_current):
        raise NothingKnownError
