"""The table of Consul's routes that are there, and of what is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal

from msgspec import Struct

from pmoves_mesh.views.http.consul import agents, elsewhere, findings, outside, writes
from pmoves_mesh.views.http.consul.reads import Handler, blocked, datacenters, plain
from pmoves_mesh.views.http.consul.shapes import (
    CatalogShape,
    CheckShape,
    HealthShape,
    NodeShape,
    ServiceShape,
)
from pmoves_mesh.views.http.guard import check_may_write
from pmoves_mesh.views.http.route import Route

_ID: Final = "{id:.+}"
_SUBJECT: Final = "{subject:.+}"


def _read(path: str, handle: Handler) -> Route:
    return Route(method="GET", path=f"/v1/{path}", handle=handle, summary="", answers={200: None})


def _plain(path: str, found: Callable[..., Any]) -> Route:
    return _read(path, plain(found))


def _blocked(path: str, gather: findings.Gather, shape: type[Struct], *, whole: bool = False) -> Route:
    return _read(path, blocked(gather, shape, whole=whole))


def _write(path: str, handle: Handler) -> Route:
    return Route(
        method="PUT",
        path=f"/v1/{path}",
        handle=handle,
        summary="",
        answers={200: None},
        guard=check_may_write,
        cost="write",
    )


def _refused(root: str, method: Literal["GET", "POST", "PUT", "DELETE"]) -> Route:
    path = f"/v1/{root}{{rest:(/.*)?}}"
    return Route(method=method, path=path, handle=elsewhere.refuse, summary="", answers={501: None})


ROUTES: Final = (
    _plain("status/leader", agents.leader),
    _plain("status/peers", agents.peers),
    _plain("agent/self", agents.self_of),
    _plain("agent/members", agents.members),
    _plain("agent/services", agents.services),
    _read(f"agent/service/{_ID}", agents.service),
    _plain("agent/checks", agents.checks),
    _write("agent/service/register", writes.register_service),
    _write(f"agent/service/deregister/{_ID}", writes.deregister_service),
    _write(f"agent/service/maintenance/{_ID}", writes.maintain_service),
    _write("agent/check/register", writes.register_check),
    _write(f"agent/check/deregister/{_ID}", writes.deregister_check),
    _write(f"agent/check/pass/{_ID}", writes.pass_check),
    _write(f"agent/check/warn/{_ID}", writes.warn_check),
    _write(f"agent/check/fail/{_ID}", writes.fail_check),
    _write(f"agent/check/update/{_ID}", writes.update_check),
    _write("agent/maintenance", writes.maintain_node),
    _plain("catalog/datacenters", datacenters),
    _blocked("catalog/nodes", findings.nodes, NodeShape, whole=True),
    _blocked(f"catalog/node/{_SUBJECT}", findings.node, ServiceShape, whole=True),
    _blocked("catalog/services", findings.services, CatalogShape, whole=True),
    _blocked(f"catalog/service/{_SUBJECT}", findings.catalog_of_service, CatalogShape),
    _write("catalog/register", outside.register),
    _write("catalog/deregister", outside.deregister),
    _blocked(f"health/service/{_SUBJECT}", findings.health_of_service, HealthShape),
    _blocked(f"health/checks/{_SUBJECT}", findings.checks_of_service, CheckShape),
    _blocked(f"health/node/{_SUBJECT}", findings.checks_of_node, CheckShape, whole=True),
    _blocked(f"health/state/{_SUBJECT}", findings.checks_in_state, CheckShape, whole=True),
    *(_refused(root, method) for root in elsewhere.ROOTS for method in ("GET", "POST", "PUT", "DELETE")),
)
"""What is served under `/v1`; it is no part of `/openapi.json`, for it is described elsewhere."""
