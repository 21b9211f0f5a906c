"""What each kind of identity may do on NATS: as little as our own code needs.

A mesh has two accounts. Its *home* holds JetStream, the node on whose host the server runs, and
the services. All other nodes and the operators are in its *outer* account, which reaches the
home's JetStream through imports of single subjects, under `$MESH.API.`.

Permissions alone would not do. NATS does not check the reply subject of a request, so whoever may
send one that JetStream answers in its own account could have the answer sent to
`$JS.API.STREAM.DELETE.MESH_EVENTS`, and the stream would be gone. From the outer account an answer
goes nowhere but into that account, where no such subject leads to JetStream.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from pmoves_mesh.core import slug
from pmoves_mesh.core.application import KINDS
from pmoves_mesh.core.event import (
    CertificatesRevoked,
    EnrolmentRefused,
    Event,
    IdentityIssued,
    InstanceDeregistered,
    InstanceEvicted,
    InstanceExpired,
    InstanceHealthChanged,
    InstanceMaintained,
    InstanceRegistered,
    InstanceUnregistered,
    InstanceUpdated,
    NodeAnnounced,
    NodeCloned,
    NodeLeft,
    NodeLost,
    RootsRotated,
)
from pmoves_mesh.core.names import (
    CHECKPOINTS,
    EVENTS,
    IDENTITIES,
    JETSTREAM_API,
    LEASES,
    MATERIALISER,
    MESH_API,
    REGISTRY,
    WITNESS,
    bucket_stream,
    inbox_prefix,
    object_stream,
)
from pmoves_mesh.server.access import Access, Member

NODE_EVENTS: Final[tuple[type[Event], ...]] = (
    NodeAnnounced,
    NodeLeft,
    NodeLost,
    NodeCloned,
    InstanceRegistered,
    InstanceUpdated,
    InstanceHealthChanged,
    InstanceMaintained,
    InstanceDeregistered,
    InstanceUnregistered,
    InstanceExpired,
)
CA_EVENTS: Final[tuple[type[Event], ...]] = (IdentityIssued, EnrolmentRefused)
OPERATOR_EVENTS: Final[tuple[type[Event], ...]] = (CertificatesRevoked, RootsRotated, InstanceEvicted)

_BUCKETS: Final = (REGISTRY, IDENTITIES, LEASES)
_STREAMS: Final = (EVENTS, *map(bucket_stream, _BUCKETS), object_stream(CHECKPOINTS))
_APPLICATIONS: Final = tuple(kind.stream for kind in KINDS)
_SHARED: Final = (f"{EVENTS}.{MATERIALISER}", f"{bucket_stream(LEASES)}.{WITNESS}")
_FETCHES: Final = tuple(f"{JETSTREAM_API}CONSUMER.MSG.NEXT.{shared}" for shared in _SHARED)
_ANY_LEASE: Final = f"$KV.{LEASES}.*"

READING: Final = (
    *(f"{JETSTREAM_API}STREAM.INFO.{stream}" for stream in (*_STREAMS, *_APPLICATIONS)),
    *(f"{JETSTREAM_API}CONSUMER.CREATE.{stream}.*" for stream in (*_STREAMS, *_APPLICATIONS)),
    *(f"{JETSTREAM_API}DIRECT.GET.{bucket_stream(name)}.$KV.{name}.>" for name in _BUCKETS),
    *(f"$JS.FC.{stream}.>" for stream in (*_STREAMS, *_APPLICATIONS)),
)
"""Following the stream, reading the buckets, and reading what applications tell."""

WORKING: Final = (
    *(event.subject for event in NODE_EVENTS),
    slug.SUBJECT,
    *(kind.subject for kind in KINDS),
    f"$KV.{REGISTRY}.>",
    f"$O.{CHECKPOINTS}.>",
    *(f"{JETSTREAM_API}CONSUMER.INFO.{shared}" for shared in _SHARED),
    *_FETCHES,
    *(f"$JS.ACK.{shared}.>" for shared in _SHARED),
)
"""Stating events, telling what applications tell, materialising, witnessing and keeping the past for all."""

DECREEING: Final = (*(event.subject for event in OPERATOR_EVENTS), f"$KV.{IDENTITIES}.>")
"""What an operator states, and showing the certificate that verifies it."""

OWNING: Final = (
    *(event.subject for event in CA_EVENTS),
    f"$KV.{IDENTITIES}.>",
    *(
        f"{JETSTREAM_API}STREAM.{verb}.{stream}"
        for verb in ("CREATE", "UPDATE")
        for stream in (*_STREAMS, *_APPLICATIONS)
    ),
    *(f"{JETSTREAM_API}CONSUMER.CREATE.{shared}" for shared in _SHARED),
    f"{JETSTREAM_API}STREAM.NAMES",
)
"""Making the stream and the buckets, and telling whom the CA let in."""

_NOT_FOR_SERVICES: Final = ("$SYS.>", "$JS.>", "$KV.>", "$O.>", "_INBOX.node.>", "_INBOX.operator.>", "_R_.>")
"""The last one carries what JetStream answers to the outer account."""

ASKING: Final = ("$SRV.INFO", "_INBOX.>")
"""Finding microservices, and answering those who ask for them; where an answer may go the agent checks."""

ASKED: Final = ("$SRV.>", "_INBOX.micro.>")
"""What is asked of microservices, and what they answer to the agent."""

_OTHERS_INBOXES: Final = ("_INBOX.node.>", "_INBOX.operator.>")

_NOT_FOR_MEMBERS: Final = tuple(f"{JETSTREAM_API}CONSUMER.CREATE.{shared}" for shared in _SHARED)


class Permissions(Struct, frozen=True, kw_only=True):
    """The subjects of one user, as NATS has it: what is allowed, less what is denied."""

    publish: tuple[str, ...]
    publish_deny: tuple[str, ...] = ()
    subscribe: tuple[str, ...]
    subscribe_deny: tuple[str, ...] = ()


class Crossing(Struct, frozen=True, kw_only=True):
    """A subject of the home account that the outer one reaches.

    Attributes:
        subject: in the home account.
        local: in the outer account.
        stream: whether one request may have several answers.
    """

    subject: str
    local: str
    stream: bool = False


def outer_account(mesh: str) -> str:
    """Returns the name of a mesh's outer account, which can be no mesh's name."""
    return f"{mesh}_members"


def is_at_home(member: Member, owner: str) -> bool:
    """Returns whether a member's account is the mesh's home."""
    return member.kind == "service" or member.identity == owner


def crossings() -> tuple[Crossing, ...]:
    """Returns what leads from the outer account to the home's JetStream, for all its users together."""
    subjects = dict.fromkeys((*WORKING, _ANY_LEASE, *READING, *DECREEING))
    return tuple(
        Crossing(subject=subject, local=_from_outside(subject), stream=subject in _FETCHES)
        for subject in subjects
    )


def disconnects(mesh: str) -> tuple[str, ...]:
    """Returns where the server tells that a client of a mesh is gone.

    Source: docs.nats.io, "System Events".
    """
    return tuple(f"$SYS.ACCOUNT.{account}.DISCONNECT" for account in (mesh, outer_account(mesh)))


def permissions(member: Member, access: Access) -> Permissions:
    """Returns what a member may do, in its own account's subjects."""
    if member.kind == "service":
        denied = ("mesh.>", "service.registry.>", *_NOT_FOR_SERVICES)
        return Permissions(
            publish=(">",), publish_deny=denied, subscribe=(">",), subscribe_deny=_NOT_FOR_SERVICES
        )
    inbox = f"{inbox_prefix(member.kind, member.name)}.>"
    if member.kind == "operator":
        return _outside(Permissions(publish=(*DECREEING, *READING), subscribe=(inbox,)))
    working = (*WORKING, f"$KV.{LEASES}.{member.name}", *READING)
    heard = (inbox, slug.SUBJECT, *disconnects(access.mesh))
    if member.identity == access.owner:
        # Commands on that host decree through its node; what makes a decree is the operator's signature.
        return Permissions(
            publish=(*working, *OWNING, *DECREEING, *ASKING),
            publish_deny=_OTHERS_INBOXES,
            subscribe=(*heard, *ASKED),
        )
    return _outside(Permissions(publish=working, subscribe=heard))


def _outside(inside: Permissions) -> Permissions:
    """Returns permissions as the outer account's subjects have them."""
    return Permissions(
        publish=tuple(map(_from_outside, inside.publish)),
        publish_deny=tuple(map(_from_outside, _NOT_FOR_MEMBERS)),
        subscribe=inside.subscribe,
    )


def _from_outside(subject: str) -> str:
    if subject.startswith(JETSTREAM_API):
        return MESH_API + subject.removeprefix(JETSTREAM_API)
    return subject
