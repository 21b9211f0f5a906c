"""What is kept in the local database, as values."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from pmoves_mesh.core.envelope import SealedEvent


class NodeState(Struct, frozen=True, kw_only=True):
    """Where a node stands in its own history.

    Attributes:
        incarnation: of this run of the agent; larger than that of every earlier run.
        revision: of the node's latest event in this incarnation; 0 before the first.
        head: the digest of the node's latest event; empty before the first of all.
    """

    incarnation: int
    revision: int
    head: str


class StoredRegistration(Struct, frozen=True, kw_only=True):
    """An instance that was registered on this node.

    Attributes:
        record: the instance as JSON.
        incarnation: of its latest event.
        revision: of its latest event.
    """

    service: str
    id: str
    record: bytes
    incarnation: int
    revision: int


class Outgoing(Struct, frozen=True, kw_only=True):
    """An event to be published.

    Attributes:
        ttl_s: seconds after which the stream forgets it; None for never.
    """

    sealed: SealedEvent
    ttl_s: int | None = None


class OutboxEntry(Struct, frozen=True, kw_only=True):
    """An event that waits to be published.

    Attributes:
        seq: its place in the order of commits; never given twice.
        ttl_s: seconds after which the stream forgets it; None for never.
    """

    seq: int
    sealed: SealedEvent
    ttl_s: int | None


class Commit(Struct, frozen=True, kw_only=True):
    """A change that becomes durable whole or not at all.

    Attributes:
        state: of the node after the change.
        upserts: registrations, new or changed.
        deletes: the (service, id) of registrations that are gone; none of `upserts`.
        appends: events for the outbox, in the order of publishing.
        follows: the head that the state must have before; None for whichever it has.
    """

    state: NodeState
    upserts: Sequence[StoredRegistration] = ()
    deletes: Sequence[tuple[str, str]] = ()
    appends: Sequence[Outgoing] = ()
    follows: str | None = None


class Sent(Struct, frozen=True, kw_only=True):
    """These entries of the outbox are in the stream."""

    seqs: Sequence[int]


class StoredSnapshot(Struct, frozen=True, kw_only=True):
    """A registry as it was at a position of a stream.

    Attributes:
        stream_id: of the stream that the position belongs to.
        blob: the encoded registry.
    """

    position: int
    stream_id: str
    blob: bytes
