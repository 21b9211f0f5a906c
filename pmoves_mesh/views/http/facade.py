"""What the HTTP view stands on, and what it says of this agent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from msgspec import Struct

from pmoves_mesh.ports import Registrar
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Rejection


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
        ca: fingerprint of each root certificate of the mesh.
        warnings: what an operator should look at.
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


@dataclass(frozen=True, kw_only=True)
class Facade:
    """Everything that the routes need.

    Attributes:
        replica: where reads are answered from.
        registrar: where writes go.
        node: this node's name; its own instances are preferred among equals.
        describe: what `/api/status` says of this agent.
        token: what a write from another host must carry; None lets none write.
        names: by which names programs of this host may call it, beside localhost and addresses.
        metrics: returns the metrics as text and its content type, for a reader's `Accept`.
    """

    replica: Replica
    registrar: Registrar
    node: str
    describe: Callable[[], RegistryFacts]
    token: str | None = field(default=None, repr=False)
    names: frozenset[str] = frozenset()
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]] | None = None


FACADE: Final = web.AppKey("facade", Facade)
