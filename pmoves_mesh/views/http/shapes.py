"""The bodies of the answers, as types: what `/openapi.json` publishes and clients can decode with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, get_args

from msgspec import UNSET, Meta, Struct, UnsetType

from pmoves_mesh.core.choice import LIMIT_MAX, Preference
from pmoves_mesh.core.history import MomentView
from pmoves_mesh.core.load import LoadView
from pmoves_mesh.core.names import AskedCapabilities, AskedCapability
from pmoves_mesh.core.query import InstanceView, NodeView
from pmoves_mesh.core.where import CHOICES_MAX, CONDITIONS_MAX, TEXT_LENGTH_MAX
from pmoves_mesh.views.http.facade import RegistryFacts

_SCALAR: Final[list[dict[str, Any]]] = [
    {"type": "string", "maxLength": TEXT_LENGTH_MAX},
    {"type": "number"},
    {"type": "boolean"},
]
_OPERATORS: Final = {
    **{name: {"anyOf": _SCALAR} for name in ("eq", "ne")},
    **{name: {"anyOf": _SCALAR[:2]} for name in ("gt", "gte", "lt", "lte")},
    "in": {"type": "array", "items": {"anyOf": _SCALAR}, "minItems": 1, "maxItems": CHOICES_MAX},
    "exists": {"type": "boolean"},
}
_CONDITION: Final = {
    "anyOf": [
        *_SCALAR,
        {"type": "object", "properties": _OPERATORS, "additionalProperties": False, "minProperties": 1},
    ]
}

AskedWhere = Annotated[
    dict[str, Any],
    Meta(extra_json_schema={"additionalProperties": _CONDITION, "maxProperties": CONDITIONS_MAX}),
]
"""What `parse_where` takes."""

AskedPreference = Annotated[str, Meta(extra_json_schema={"enum": list(get_args(Preference))})]
AskedLimit = Annotated[int, Meta(extra_json_schema={"minimum": 1, "maximum": LIMIT_MAX})]

ShortText = Annotated[str, Meta(min_length=1, max_length=256)]
Pem = Annotated[str, Meta(min_length=1, max_length=16 * 1024)]


class Index(Struct, frozen=True, kw_only=True):
    """Which registry this is, and what can be asked.

    Attributes:
        name: the service's name, as in `/healthz`.
        node: the node that answers.
        endpoints: what each route does, by method and path.
    """

    name: str
    mesh: str
    node: str
    version: str
    endpoints: dict[str, str]


class ServiceList(Struct, frozen=True, kw_only=True):
    """Instances, and how many there are.

    Attributes:
        at: which moment they are of, if one was asked for.
    """

    count: int
    services: list[InstanceView]
    at: MomentView | UnsetType = UNSET


class ServiceAnswer(InstanceView, frozen=True, kw_only=True):
    """A service: its best instance's fields, and every instance that can be discovered, best first."""

    instances: list[InstanceView]


class NodeList(Struct, frozen=True, kw_only=True):
    """Nodes, and how many there are.

    Attributes:
        at: which moment they are of, if one was asked for.
    """

    count: int
    nodes: list[NodeView]
    at: MomentView | UnsetType = UNSET


class NodeAnswer(NodeView, frozen=True, kw_only=True):
    """A node, and its instances in full: `services` has their names, `instances` counts them."""

    services_detail: list[InstanceView]


class NodeLoad(Struct, frozen=True, kw_only=True):
    """How much of a node is in use, and whom it reaches; null if that is not known, or the node is gone.

    Attributes:
        reaches: the nodes whose turn it is to be tried by this one: nothing, or why it could not.
    """

    name: str
    load: LoadView | None
    reaches: Mapping[str, str] | None = None


class Status(Struct, frozen=True, kw_only=True):
    """The whole mesh as this agent sees it."""

    registry: RegistryFacts
    services: list[InstanceView]
    nodes: list[NodeView]


class Registered(Struct, frozen=True, kw_only=True):
    """The instance as it is registered now; its `position` is 0 while it waits in the outbox."""

    status: Literal["registered"] = "registered"
    service: InstanceView


class Unregistered(Struct, frozen=True, kw_only=True):
    """The service's name, of which instances were removed."""

    status: Literal["unregistered"] = "unregistered"
    name: str


class Report(Struct, frozen=True, kw_only=True):
    """The body of `PUT /api/services/{name}/health`.

    Attributes:
        status: how the service is, as it says itself.
        output: in its own words; shown while the status lasts.
    """

    status: Literal["healthy", "unhealthy"]
    output: Annotated[str, Meta(max_length=4096)] = ""


class Reported(Struct, frozen=True, kw_only=True):
    """The instance that reported, as it is registered now."""

    status: Literal["reported"] = "reported"
    service: InstanceView


class MaintenanceWanted(Struct, frozen=True, kw_only=True):
    """The body of the routes that begin and end maintenance.

    Attributes:
        on: whether it begins.
        reason: why, for whoever lists the registry.
    """

    on: bool
    reason: Annotated[str, Meta(max_length=1024)] = ""


class Health(Struct, frozen=True, kw_only=True):
    """This agent runs."""

    status: Literal["healthy"] = "healthy"
    service: Literal["service-registry"] = "service-registry"


class Ready(Struct, frozen=True, kw_only=True):
    """This agent's replica is current."""

    status: Literal["ready"] = "ready"
    position: int
    stale_s: float


class EnrolmentRequest(Struct, frozen=True, kw_only=True):
    """The body of `POST /api/enrol`: a token, and the key that is to be certified for it.

    Attributes:
        token: the public part of the token.
        secret: its secret part.
        csr: PKCS #10, PEM: the key, and the node that wants to join.
    """

    token: ShortText
    secret: ShortText
    csr: Pem


class RenewalRequest(Struct, frozen=True, kw_only=True):
    """The body of `POST /api/renew`.

    Attributes:
        certificate: PEM: the one to be replaced; it may have ended.
        csr: PKCS #10, PEM, signed with the same key.
    """

    certificate: Pem
    csr: Pem


class CertificateWanted(Struct, frozen=True, kw_only=True):
    """The body of `POST /api/certificates`.

    Attributes:
        name: the service's.
        csr: PKCS #10, PEM.
    """

    name: ShortText
    csr: Pem


class Wanted(Struct, frozen=True, kw_only=True):
    """The body of `POST /api/discover`, unless it is the bare list: one of the first two must be there.

    Attributes:
        capabilities: which an instance must have, all of them.
        where: conditions by path, such as `{"resources.gpu.memory_gb": {"gte": 8}}`; all must hold.
        prefer: what decides among instances that are equally well.
        limit: how many are wanted at most.
    """

    capabilities: AskedCapabilities | AskedCapability | UnsetType = UNSET
    where: AskedWhere | UnsetType = UNSET
    prefer: AskedPreference = "local"
    limit: AskedLimit | UnsetType = UNSET


class Found(InstanceView, frozen=True, kw_only=True):
    """An instance that was discovered, and by what its node was preferred, if that was asked for.

    Attributes:
        load: for `least_loaded`: how much of its node is in use; null if that is not known.
        round_trip_ms: for `nearest`: milliseconds to its node and back; null if it does not answer.
    """

    load: LoadView | UnsetType | None = UNSET
    round_trip_ms: float | UnsetType | None = UNSET


class FoundList(Struct, frozen=True, kw_only=True):
    """The instances that were discovered, the best first, and how many there are."""

    count: int
    services: list[Found]


class Problem(Struct, frozen=True, kw_only=True):
    """Why a request was not served.

    Attributes:
        field: the field or parameter at fault.
        reason: one word for why an identity is not given, such as `token_used`.
        nodes: who owns what the caller tried to change.
        position: how far this replica is.
        stale_s: seconds since this replica was last current; null if it never was.
        from_position: from which position of the stream on the past is known.
        from_time: when the stream took the event there, ISO 8601, UTC.

    Source: RFC 9457 section 3.
    """

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    field: str | UnsetType = UNSET
    reason: str | UnsetType = UNSET
    nodes: tuple[str, ...] | UnsetType = UNSET
    position: int | UnsetType = UNSET
    stale_s: float | UnsetType | None = UNSET
    from_position: int | UnsetType = UNSET
    from_time: str | UnsetType = UNSET
