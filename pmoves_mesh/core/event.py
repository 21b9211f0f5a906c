"""The events of the mesh: facts that somebody signed, as they stand in the stream.

Each is the JSON payload itself, typed. Other PMOVES programs read these subjects with a JSON
parser and nothing else, so an event is a superset of the shapes already in the field.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Final, Literal

from msgspec import Meta, Struct

from pmoves_mesh.core.model import Instance, InstanceKey, ManifestEntry, Stamp
from pmoves_mesh.core.names import (
    CAPABILITIES_MAX,
    Capability,
    Counter,
    Host,
    InstanceId,
    Label,
    Mode,
    Port,
)

NETWORKS_MAX: Final = 8

MANIFEST_ENTRIES_MAX: Final = 2000
"""Above this many instances an announcement carries no manifest: it would outgrow an event."""

Text = Annotated[str, Meta(max_length=1024)]
Digest = Annotated[str, Meta(pattern=r"\A([0-9a-f]{64})?\Z")]
Fingerprint = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Pem = Annotated[str, Meta(max_length=8192)]


class _Event(Struct, frozen=True, kw_only=True, gc=False):
    """What every event carries.

    Attributes:
        node: whom the event is about; its author too, but for the events of witnesses and operators.
        prev: the digest of the same author's previous event; empty for the first one.
        timestamp: ISO 8601, UTC, by the author's clock; for readers, never for decisions.
    """

    subject: ClassVar[str]

    mesh: Label
    node: Label
    incarnation: Counter
    revision: Counter
    prev: Digest = ""
    timestamp: Text = ""

    @property
    def stamp(self) -> Stamp:
        """The event's place in its node's own order."""
        return Stamp(self.incarnation, self.revision)


class NodeAnnounced(_Event, frozen=True, kw_only=True, gc=False):
    """A node says who and where it is, and lists every instance it holds.

    Attributes:
        host: the address at which other nodes reach this one.
        addresses: where it is reached on each of several networks, such as `tailscale` and `nats`.
        port: the port of the node's HTTP API.
        caps: `capabilities` once more, as the object that older readers expect.
        services_running: the names of the instances, once each.
        enrols: whether this node keeps the CA and lets others join at its HTTP API.
        ts: unix time in seconds, by the author's clock.
        instances: the manifest; None when it would not fit an event.
    """

    subject: ClassVar[str] = "mesh.node.announce.v1"

    type: Literal["mesh.node.announce.v1"] = "mesh.node.announce.v1"
    node_id: Text = ""
    hostname: Text = ""
    host: Host
    addresses: Annotated[dict[Text, Host], Meta(max_length=NETWORKS_MAX)] = {}
    port: Port = 0
    mode: Mode = "docked"
    caps: dict[str, bool] = {}
    capabilities: Annotated[tuple[Capability, ...], Meta(max_length=CAPABILITIES_MAX)] = ()
    services_running: tuple[Text, ...] = ()
    tailscale_ip: Text | None = None
    ts: float = 0.0
    version: Text = ""
    resources: dict[str, Any] = {}
    enrols: bool = False
    instances: Annotated[tuple[ManifestEntry, ...], Meta(max_length=MANIFEST_ENTRIES_MAX)] | None = None


class NodeLeft(_Event, frozen=True, kw_only=True, gc=False):
    """A node leaves on purpose; its instances are no longer discovered."""

    subject: ClassVar[str] = "mesh.node.leave.v1"

    type: Literal["mesh.node.leave.v1"] = "mesh.node.leave.v1"
    reason: Text = ""


class NodeLost(_Event, frozen=True, kw_only=True, gc=False):
    """A witness saw a node's lease run out.

    Its stamp is the last one that the witness knew of the node: whatever the node says
    after that refutes the loss.
    """

    subject: ClassVar[str] = "mesh.node.lost.v1"

    type: Literal["mesh.node.lost.v1"] = "mesh.node.lost.v1"
    witness: Label
    reason: Text = ""


class NodeCloned(_Event, frozen=True, kw_only=True, gc=False):
    """A node found that a second host runs with its identity.

    Attributes:
        host: where the other one runs, as it says itself.
        clone: the other one's incarnation.
    """

    subject: ClassVar[str] = "mesh.node.cloned.v1"

    type: Literal["mesh.node.cloned.v1"] = "mesh.node.cloned.v1"
    host: Text = ""
    clone: Counter


class _InstanceEvent(_Event, frozen=True, kw_only=True, gc=False):
    """What every statement of an owner about one instance carries: the whole record."""

    service: Label
    data: Instance

    @property
    def key(self) -> InstanceKey:
        """Which instance this is about."""
        return self.data.key


class InstanceRegistered(_InstanceEvent, frozen=True, kw_only=True, gc=False):
    """An instance is there."""

    subject: ClassVar[str] = "service.registry.registered"
    type: Literal["registered"] = "registered"


class InstanceUpdated(_InstanceEvent, frozen=True, kw_only=True, gc=False):
    """An instance's record changed."""

    subject: ClassVar[str] = "service.registry.updated"
    type: Literal["updated"] = "updated"


class InstanceHealthChanged(_InstanceEvent, frozen=True, kw_only=True, gc=False):
    """An instance's health status changed."""

    subject: ClassVar[str] = "service.registry.health"
    type: Literal["health"] = "health"


class InstanceMaintained(_InstanceEvent, frozen=True, kw_only=True, gc=False):
    """An instance went into maintenance, or came out of it."""

    subject: ClassVar[str] = "service.registry.maintenance"
    type: Literal["maintenance"] = "maintenance"


class InstanceDeregistered(_InstanceEvent, frozen=True, kw_only=True, gc=False):
    """An instance is gone, because its owner says so."""

    subject: ClassVar[str] = "service.registry.deregistered"
    type: Literal["deregistered"] = "deregistered"


class InstanceUnregistered(_InstanceEvent, frozen=True, kw_only=True, gc=False):
    """The same fact as `InstanceDeregistered`, under the word that older listeners know."""

    subject: ClassVar[str] = "service.registry.unregistered"
    type: Literal["unregistered"] = "unregistered"


class InstanceExpired(_Event, frozen=True, kw_only=True, gc=False):
    """A witness removes an instance whose node stayed lost for `deregister_after` seconds.

    Its stamp is the node's, as in `NodeLost`: a node that speaks again takes it back.
    """

    subject: ClassVar[str] = "service.registry.expired"

    type: Literal["expired"] = "expired"
    service: Label
    id: InstanceId
    witness: Label

    @property
    def key(self) -> InstanceKey:
        """Which instance this is about."""
        return InstanceKey(self.service, self.node, self.id)


class InstanceEvicted(_Event, frozen=True, kw_only=True, gc=False):
    """An operator removes a service of a node by force, until it is lifted.

    Attributes:
        id: one instance, or None for all of that service on that node.
        lifted: True takes an earlier eviction back.
    """

    subject: ClassVar[str] = "service.registry.evicted"

    type: Literal["evicted"] = "evicted"
    service: Label
    id: InstanceId | None = None
    operator: Label
    lifted: bool = False
    reason: Text = ""


class CertificatesRevoked(_Event, frozen=True, kw_only=True, gc=False):
    """Certificates no longer hold, from this position of the stream on.

    Attributes:
        fingerprints: SHA-256 of each certificate (DER), in hex.
        operator: who says so.
    """

    subject: ClassVar[str] = "mesh.trust.revoked.v1"

    type: Literal["mesh.trust.revoked.v1"] = "mesh.trust.revoked.v1"
    operator: Label
    fingerprints: Annotated[tuple[Fingerprint, ...], Meta(max_length=1000)]
    reason: Text = ""


class RetiredRoot(Struct, frozen=True, kw_only=True, gc=False):
    """A CA certificate that holds no more, so that what it signed in its time can still be verified.

    Attributes:
        certificate: PEM.
        position: of the stream, from which on it holds no more; 0 is the event's own position.
    """

    certificate: Pem
    position: Counter = 0


class RootsRotated(_Event, frozen=True, kw_only=True, gc=False):
    """The CA certificates that hold from now on, and every earlier one.

    Attributes:
        roots: PEM, one certificate each; the first one issues.
        retired: those that hold no more.
        operator: who says so.
    """

    subject: ClassVar[str] = "mesh.trust.rotated.v1"

    type: Literal["mesh.trust.rotated.v1"] = "mesh.trust.rotated.v1"
    operator: Label
    roots: Annotated[tuple[Pem, ...], Meta(min_length=1, max_length=4)]
    retired: Annotated[tuple[RetiredRoot, ...], Meta(max_length=16)] = ()


class IdentityIssued(_Event, frozen=True, kw_only=True, gc=False):
    """The CA gave somebody a certificate; stated by the node that keeps the CA.

    Attributes:
        identity: the SPIFFE ID.
        fingerprint: SHA-256 of the certificate (DER), in hex.
        not_after: ISO 8601, UTC.
        token: the public part of the token that was used; empty for a renewal.
        remote: the address that asked.
    """

    subject: ClassVar[str] = "mesh.trust.issued.v1"

    type: Literal["mesh.trust.issued.v1"] = "mesh.trust.issued.v1"
    identity: Text
    fingerprint: Fingerprint
    not_after: Text = ""
    token: Text = ""
    remote: Text = ""


class EnrolmentRefused(_Event, frozen=True, kw_only=True, gc=False):
    """The CA refused a certificate; stated by the node that keeps the CA.

    Attributes:
        reason: one word, such as `token_used`.
        name: what was asked for, as far as it could be read.
        token: the public part of the token that was shown.
        remote: the address that asked.
        count: how many refusals of this kind the event stands for.
    """

    subject: ClassVar[str] = "mesh.trust.refused.v1"

    type: Literal["mesh.trust.refused.v1"] = "mesh.trust.refused.v1"
    reason: Text
    name: Text = ""
    token: Text = ""
    remote: Text = ""
    count: Counter = 1


Stated = InstanceRegistered | InstanceUpdated | InstanceHealthChanged | InstanceMaintained
"""An owner states an instance's whole record."""

Removed = InstanceDeregistered | InstanceUnregistered
"""An owner removes an instance."""

Noted = NodeCloned | IdentityIssued | EnrolmentRefused
"""A node states what happened to it; nothing in the registry follows from it but that the node spoke."""

Event = (
    NodeAnnounced
    | NodeLeft
    | NodeLost
    | Stated
    | Removed
    | InstanceExpired
    | InstanceEvicted
    | CertificatesRevoked
    | RootsRotated
    | Noted
)

EVENT_TYPES: Final[tuple[type[Event], ...]] = (
    NodeAnnounced,
    NodeLeft,
    NodeLost,
    InstanceRegistered,
    InstanceUpdated,
    InstanceHealthChanged,
    InstanceMaintained,
    InstanceDeregistered,
    InstanceUnregistered,
    InstanceExpired,
    InstanceEvicted,
    CertificatesRevoked,
    RootsRotated,
    NodeCloned,
    IdentityIssued,
    EnrolmentRefused,
)

STREAM_SUBJECTS: Final = (
    "mesh.node.*.v1",
    "mesh.trust.*.v1",
    "service.registry.*",
)
"""What the stream claims, and nothing more: other `mesh.` subjects belong to other programs."""
