"""What the HTTP view stands on, and what it says of this agent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from aiohttp import web
from msgspec import Struct

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.comparison import Synced
from pmoves_mesh.core.event import RetiredRoot
from pmoves_mesh.core.history import EventsFollowed, Question, Told
from pmoves_mesh.core.trust import SignerKind
from pmoves_mesh.ports import Clock, Enroller, Maintainer, Registrar, Reporter, Surveyor
from pmoves_mesh.replica import Replica
from pmoves_mesh.store.issued import IssuedList
from pmoves_mesh.verifier import Rejection
from pmoves_mesh.views.http.encoded import EncodedInstances


class RegistryFacts(Struct, frozen=True, kw_only=True):
    """The `registry` object of `/api/status`: how this agent and its replica are doing.

    Attributes:
        hostname: this node's name.
        nats_url: comma list of the servers used, without credentials.
        nats_external: comma list of the servers' outside addresses, without credentials.
        services: how many instances are listed.
        nodes: how many nodes are known.
        stale_s: seconds since the replica was last current; None if it never was.
        connected: whether NATS can be reached now.
        current: whether the replica holds everything the stream holds.
        outbox: how many events wait to be sent.
        events: how many events were folded in, by outcome.
        rejected: how many events were refused, by reason.
        rejections: the latest of those.
        unsigned: `reject` or `accept`: what happens to events without a signature.
        gaps: how many links in nodes' chains of events were missing.
        repairs: how often a disagreement with the stream or the bucket was found and mended, by kind.
        ca: fingerprint of each root certificate of the mesh.
        warnings: what an operator should look at.
        reached_from: what other nodes say that tried to reach this one: nothing, or why they could not.
    """

    mesh: str
    hostname: str
    mode: str
    nats_url: str
    nats_external: str
    services: int
    nodes: int
    position: int
    stream: str
    stale: bool
    stale_s: float | None
    connected: bool
    current: bool
    outbox: int
    events: Mapping[str, int]
    rejected: Mapping[str, int]
    rejections: Sequence[Rejection]
    unsigned: str
    gaps: int
    ca: Sequence[str]
    version: str
    warnings: Sequence[str]
    repairs: Mapping[str, int] = {}
    reached_from: Mapping[str, str] = {}


class CertificateFacts(Struct, frozen=True, kw_only=True):
    """A certificate with which an identity of the mesh speaks.

    Attributes:
        identity: the SPIFFE ID.
        name: its last part.
        fingerprint: SHA-256 of the certificate (DER), in hex.
        root: fingerprint of the CA certificate that it chains to.
        not_after: when it ends.
        seconds_left: until then; negative once it has ended.
        revoked: whether it was revoked.
    """

    identity: str
    kind: SignerKind
    name: str
    fingerprint: str
    root: str
    not_after: str
    seconds_left: float
    revoked: bool


class TrustReport(Struct, frozen=True, kw_only=True):
    """Whom the mesh believes, as this agent sees it.

    Attributes:
        node: the node that answers.
        enrols: whether it gives certificates.
        roots: the CA certificates that hold, PEM, the issuing one first.
        ca: their fingerprints, in the same order.
        retired: the CA certificates that no longer hold, and from which position on.
        certificates: those with which the nodes of the mesh speak now.
        revoked: fingerprints of the certificates that were revoked.
        rejected: how many events were refused, by reason.
        rejections: the latest of those.
        tokens_pending: how many join tokens could still be used; None where they are not kept.
    """

    mesh: str
    node: str
    enrols: bool
    roots: Sequence[str]
    ca: Sequence[str]
    retired: Sequence[RetiredRoot]
    certificates: Sequence[CertificateFacts]
    revoked: Sequence[str]
    rejected: Mapping[str, int]
    rejections: Sequence[Rejection]
    tokens_pending: int | None = None


class Historian(Protocol):
    """Who tells of the past, in its own time: nothing of this host waits for it.

    Both methods raise `BeforeHistoryError` or `InvalidFieldError` if the moment is none of which it can
    tell, `LogUnavailable` if the log cannot be reached, `HistoryBusyError` if too many ask.
    """

    async def ask(self, question: Question) -> Told:
        """Returns the answer to a question."""

    def follow(self, wanted: EventsFollowed) -> AsyncGenerator[Sequence[Told], None]:
        """Yields events as they come, in groups, without end; none is sent before the last was taken.

        The first group comes at once, may be empty, and says that nothing is missed from now on.
        """


@dataclass(frozen=True, kw_only=True)
class Facade:
    """Everything that the routes need.

    Attributes:
        replica: where reads are answered from.
        registrar: where writes go.
        reporter: where services say by themselves that they are well; None where nothing asks them to.
        maintainer: where maintenance begins and ends; None where nothing can be hidden.
        node: this node's name; its own instances are preferred among equals.
        describe: what `/api/status` says of this agent.
        token: what a write from another host must carry; None lets none write.
        names: by which names it may be called, beside localhost and addresses.
        clock: the time, for what is counted and for certificates.
        enroller: who gives certificates; None where the CA is not kept.
        local_secret: what programs of this host know that may ask for identities of services.
        enrols: whether this node keeps the CA.
        tokens_pending: returns how many join tokens could still be used; blocks for a moment.
        metrics: returns the metrics as text and its content type, for a reader's `Accept`.
        observe: takes note of an answer's method, route and status, and the seconds that it took.
        settled: returns whether everything that this node said is in the stream.
        surveyor: who finds out how loaded nodes are, and how far away; None where nobody does.
        encoded: the instances as they were last encoded.
        readers: how many follow a change now, by how they do; the server puts in what counts them.
        historian: who tells of the past; None where nobody can.
        synchronise: compares stream, bucket and replica at once, and mends what differs.
        issued: returns whose certificates hold; None where the CA is not kept.
    """

    replica: Replica
    registrar: Registrar
    node: str
    describe: Callable[[], RegistryFacts]
    token: str | None = field(default=None, repr=False)
    names: frozenset[str] = frozenset()
    clock: Clock = field(default_factory=SystemClock)
    enroller: Enroller | None = None
    local_secret: str | None = field(default=None, repr=False)
    enrols: bool = False
    tokens_pending: Callable[[], int] | None = None
    reporter: Reporter | None = None
    maintainer: Maintainer | None = None
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]] | None = None
    observe: Callable[[str, str, int, float], None] | None = None
    settled: Callable[[], bool] = lambda: True
    surveyor: Surveyor | None = None
    encoded: EncodedInstances = field(default_factory=EncodedInstances, repr=False)
    readers: dict[str, Callable[[], int]] = field(default_factory=dict)
    synchronise: Callable[[], Awaitable[Synced]] | None = None
    issued: Callable[[], Awaitable[IssuedList]] | None = None
    historian: Historian | None = None


FACADE: Final = web.AppKey("facade", Facade)
