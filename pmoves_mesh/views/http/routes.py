"""The table of routes: what the server answers, and what `/openapi.json` says of it."""

from __future__ import annotations

from typing import Annotated, Any, Final

from msgspec import Meta

from pmoves_mesh.core.names import (
    AskedCapabilities,
    AskedCapability,
    AskedCapabilityList,
    AskedFlag,
    AskedId,
    AskedLabelIfAny,
    AskedModeIfAny,
    AskedPathLabel,
    AskedWait,
)
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.ports import IssuedIdentity
from pmoves_mesh.views.http import (
    enrolment,
    guard,
    history,
    issued,
    metrics,
    prometheus,
    reads,
    sync,
    trust,
    watch,
    writes,
)
from pmoves_mesh.views.http.blocking import INDEX_MAX
from pmoves_mesh.views.http.console import pages
from pmoves_mesh.views.http.events import EventStream
from pmoves_mesh.views.http.facade import TrustReport
from pmoves_mesh.views.http.prometheus import TargetGroup
from pmoves_mesh.views.http.route import Parameter, Route
from pmoves_mesh.views.http.shapes import (
    CertificateWanted,
    EnrolmentRequest,
    FoundList,
    Health,
    Index,
    MaintenanceWanted,
    NodeAnswer,
    NodeList,
    NodeLoad,
    Problem,
    Ready,
    Registered,
    RenewalRequest,
    Report,
    Reported,
    ServiceAnswer,
    ServiceList,
    Status,
    Unregistered,
    Wanted,
)

MIN_POSITION: Final = Parameter(
    name="min_position",
    type=Annotated[int, Meta(ge=0)],
    meaning="Wait up to 5 s until this replica has reached that position of the stream.",
)
_WAIT: Final = Parameter(
    name="wait",
    type=AskedWait,
    meaning="`none` answers as soon as the change is durable in this node's outbox.",
)
_SERVICE: Final = Parameter(name="name", where="path", type=AskedPathLabel, meaning="The service's name.")
_NODE_NAME: Final = Parameter(name="name", where="path", type=AskedPathLabel, meaning="The node's name.")
_ID: Final = Parameter(name="id", type=AskedId, meaning="Only this instance.")
_NODE: Final = Parameter(name="node", type=AskedLabelIfAny, meaning="The node's name.")
_FILTER: Final = (
    Parameter(name="mode", type=AskedModeIfAny, meaning="Only instances of this mode."),
    Parameter(
        name="capability",
        type=list[AskedCapabilityList],
        meaning="Only instances with all of these; may be repeated, or a comma list.",
    ),
    Parameter(
        name="healthy_only",
        type=AskedFlag,
        meaning="Only instances that are healthy and can be discovered; also 1, yes, 0, no.",
    ),
    _NODE,
    Parameter(name="name", type=AskedLabelIfAny, meaning="Only instances of this service."),
)
_BLOCKING: Final = (
    Parameter(
        name="index",
        type=Annotated[int, Meta(ge=0, le=INDEX_MAX)],
        meaning="The `X-Mesh-Index` of the answer that the reader has: wait until it is another.",
    ),
    Parameter(
        name="wait",
        type=Annotated[str, Meta(pattern=r"^([0-9]{1,9}(ms|s|m|h))+$|^[0-9]{0,9}$")],
        meaning="How long to wait at most, such as 10s or 2m: 5m if it is left out, never above 10m.",
    ),
)
_LAST_EVENT_ID: Final = Parameter(
    name="Last-Event-ID",
    where="header",
    type=Annotated[int, Meta(ge=0)],
    meaning="The position that the reader was told up to: go on from there.",
)
_REFUSALS: Final = dict.fromkeys((400, 403, 404, 408, 413, 422, 503), Problem)
_WRITE_REFUSALS: Final = dict.fromkeys((400, 401, 403, 404, 408, 409, 413, 422, 503, 507), Problem)

ROUTES: Final = (
    Route(
        method="GET",
        path="/",
        handle=pages.index,
        summary="Name this registry and its endpoints; a browser gets the console.",
        answers={200: Index},
    ),
    Route(
        method="GET",
        path="/api/services",
        handle=reads.services,
        summary="List the instances that are registered, lost nodes' included.",
        answers={200: ServiceList} | history.REFUSALS,
        parameters=(*_FILTER, *_BLOCKING, history.AT),
        waits=True,
    ),
    Route(
        method="GET",
        path="/api/watch",
        handle=watch.watch,
        summary="Show the instances that match, then every change of them, as server-sent events.",
        answers={200: EventStream, 422: Problem, 503: Problem},
        parameters=(*_FILTER, _LAST_EVENT_ID),
        waits=True,
    ),
    Route(
        method="POST",
        path="/api/services",
        handle=writes.register,
        summary="Register an instance on this node, or update it; any content type.",
        answers=dict.fromkeys((200, 202), Registered)
        | dict.fromkeys((400, 401, 403, 404, 408, 413, 422, 503, 507), Problem),
        parameters=(_WAIT,),
        body=Registration,
        guard=guard.check_may_write,
        cost="write",
    ),
    Route(
        method="GET",
        path="/api/services/{name}",
        handle=reads.service,
        summary="Find the best instance of a service, and all that can be discovered.",
        answers={200: ServiceAnswer, 404: Problem},
        parameters=(_SERVICE,),
        waits=True,
    ),
    Route(
        method="DELETE",
        path="/api/services/{name}",
        handle=writes.deregister,
        summary="Remove this node's instances of a service, or one of them.",
        answers=dict.fromkeys((200, 202), Unregistered)
        | dict.fromkeys((401, 403, 404, 409, 422, 503), Problem),
        parameters=(
            _SERVICE,
            _NODE,
            _ID,
            _WAIT,
        ),
        guard=guard.check_may_write,
        cost="write",
    ),
    Route(
        method="PUT",
        path="/api/services/{name}/health",
        handle=writes.report,
        summary="Report how an instance of this node is, which has a check of type ttl.",
        answers=dict.fromkeys((200, 202), Reported) | _WRITE_REFUSALS,
        parameters=(_SERVICE, _ID, _WAIT),
        body=Report,
        guard=guard.check_may_write,
        cost="write",
    ),
    Route(
        method="PUT",
        path="/api/services/{name}/maintenance",
        handle=writes.maintain,
        summary="Hide this node's instances of a service from discovery, or show them again.",
        answers=dict.fromkeys((200, 202), ServiceList) | _WRITE_REFUSALS,
        parameters=(_SERVICE, _ID, _WAIT),
        body=MaintenanceWanted,
        guard=guard.check_may_write,
        cost="write",
    ),
    Route(
        method="PUT",
        path="/api/nodes/{name}/maintenance",
        handle=writes.maintain_node,
        summary="Hide all of this node from discovery, or show it again.",
        answers=dict.fromkeys((200, 202), ServiceList) | _WRITE_REFUSALS,
        parameters=(_NODE_NAME, _WAIT),
        body=MaintenanceWanted,
        guard=guard.check_may_write,
        cost="write",
    ),
    Route(
        method="POST",
        path="/api/discover",
        handle=reads.discover,
        summary="Find the instances that have some capabilities and match conditions, best first.",
        answers={200: FoundList} | dict.fromkeys((400, 408, 413, 422), Problem),
        body=Wanted | AskedCapabilities | AskedCapability,
        waits=True,
    ),
    Route(
        method="GET",
        path="/api/status",
        handle=reads.status,
        summary="Show the whole mesh as this agent sees it.",
        answers={200: Status},
        waits=True,
    ),
    Route(
        method="GET",
        path="/api/nodes",
        handle=reads.nodes,
        summary="List the nodes of the mesh.",
        answers={200: NodeList} | history.REFUSALS,
        parameters=(*_BLOCKING, history.AT),
        waits=True,
    ),
    Route(
        method="GET",
        path="/api/nodes/{name}",
        handle=reads.node,
        summary="Show one node and its instances.",
        answers={200: NodeAnswer, 404: Problem},
        parameters=(_NODE_NAME,),
        waits=True,
    ),
    Route(
        method="GET",
        path="/api/nodes/{name}/load",
        handle=reads.load,
        summary="Show how much of a node is in use, and whom it reaches.",
        answers={200: NodeLoad, 404: Problem},
        parameters=(_NODE_NAME,),
        waits=True,
    ),
    Route(
        method="GET",
        path="/api/trust",
        handle=trust.trust,
        summary="Show whom the mesh believes: its CA certificates, those of its nodes, and what was refused.",
        answers={200: TrustReport},
        waits=True,
    ),
    Route(
        method="POST",
        path="/api/enrol",
        handle=enrolment.enrol,
        summary="Let a host into the mesh, once for each token.",
        answers={200: IssuedIdentity} | _REFUSALS,
        body=EnrolmentRequest,
        guard=guard.check_is_private,
        cost="enrolment",
    ),
    Route(
        method="POST",
        path="/api/renew",
        handle=enrolment.renew,
        summary="Give a new certificate to whoever holds the key of one that was not revoked.",
        answers={200: IssuedIdentity} | _REFUSALS,
        body=RenewalRequest,
        guard=guard.check_is_private,
        cost="enrolment",
    ),
    Route(
        method="POST",
        path="/api/certificates",
        handle=enrolment.certify,
        summary="Give a service an identity of its own, for a node, an operator or a program of this host.",
        answers={200: IssuedIdentity, 401: Problem} | _REFUSALS,
        body=CertificateWanted,
        guard=guard.check_may_vouch,
        cost="write",  # who may ask is known by then, and a node may have many services
    ),
    Route(
        method="GET",
        path="/healthz",
        handle=reads.healthz,
        summary="Tell that this agent runs.",
        answers={200: Health},
    ),
    Route(
        method="GET",
        path="/readyz",
        handle=reads.readyz,
        summary="Tell whether this agent's replica is current.",
        answers={200: Ready, 503: Problem},
    ),
    Route(
        method="GET",
        path="/api/prometheus/sd",
        handle=prometheus.targets,
        summary="List every endpoint as Prometheus takes its targets (HTTP SD); 503 if not all are known.",
        answers={200: list[TargetGroup], 503: Problem},
        waits=True,
    ),
    Route(
        method="GET",
        path="/metrics",
        handle=metrics.metrics,
        summary="Show this agent's metrics to Prometheus: OpenMetrics if `Accept` names it, else plain text.",
        answers={200: str, 404: Problem},
    ),
    Route(
        method="GET",
        path="/openapi.json",
        handle=reads.openapi,
        summary="Describe this API.",
        answers={200: dict[str, Any]},
    ),
    *sync.ROUTES,
    *issued.ROUTES,
    *history.ROUTES,
)
