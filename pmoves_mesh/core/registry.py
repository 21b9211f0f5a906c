"""The registry: nodes and instances in memory, with the indexes that lookups need.

It is only ever changed by the projection. Every method costs as much as what it touches,
never as much as the registry holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pmoves_mesh.core.event import NodeAnnounced
from pmoves_mesh.core.groups import Group, Index
from pmoves_mesh.core.model import NEVER, Instance, InstanceKey, Stamp
from pmoves_mesh.core.names import NodeStatus


class Turn(NamedTuple):
    """When something was decreed.

    Attributes:
        position: in this stream; 0 if it is of before it.
        time_ms: at which the stream that it was said in took it, unix milliseconds.
    """

    position: int
    time_ms: int

    def is_after(self, other: Turn) -> bool:
        """Returns whether this is the later word of two."""
        if self.position and other.position:
            return self.position > other.position
        return (self.time_ms, self.position) > (other.time_ms, other.position)


_NEVER: Final = Turn(0, 0)


class Eviction(NamedTuple):
    """An operator's latest word about an instance, or about a service on a node: it evicts, or lifts."""

    turn: Turn
    evicts: bool


class Anchor(NamedTuple):
    """An event of the stream by which its history is known again; position 0 for none.

    Attributes:
        position: of the latest event that changed something. Unlike a repetition it stays in the
            stream until the stream's limits take it.
        digest: of that event.
    """

    position: int = 0
    digest: str = ""


@dataclass(slots=True, frozen=True, kw_only=True)
class Roots:
    """The CA certificates as the latest rotation left them.

    Attributes:
        turn: of that rotation.
        certificates: PEM, the issuing one first.
        retired: PEM of each earlier one, and the position from which on it holds no more.
    """

    turn: Turn = _NEVER
    certificates: tuple[str, ...] = ()
    retired: tuple[tuple[str, int], ...] = ()


@dataclass(slots=True)
class InstanceEntry:
    """An instance as this replica holds it.

    Attributes:
        record: the owner's latest word.
        stamp: of that word.
        position: where in the stream it stands; 0 while it is still on its way there.
        time_ms: when the stream took it, unix milliseconds.
        signer: SPIFFE ID of who signed it; empty if nobody did.
        fingerprint: of the signer's certificate.
        key: the instance's name in the whole mesh.
    """

    record: Instance
    stamp: Stamp
    position: int
    time_ms: int
    verified: bool
    signer: str
    fingerprint: str
    key: InstanceKey = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.key = self.record.key


@dataclass(slots=True)
class NodeEntry:
    """A node as this replica holds it.

    Attributes:
        announced: the latest announcement; None until one was seen.
        announced_stamp: of that announcement.
        position: where in the stream it stands.
        floor: stamp of the latest announcement with a manifest: what the manifest leaves out is gone.
        spoken: the latest stamp of anything the node itself said, but for leaving.
        left: stamp of its latest leave.
        lost: the stamp up to which a witness declared it lost.
        head: digest of the event at the node's latest stamp.
        seen_ms: when the stream last took something from it, repetitions included.
        entries: its instances.
        removed: what was removed above the floor, with stamp and time: an older event must not revive it.
        missing: what its manifest lists and this replica does not hold.
        expired: what a witness removed, at which of the node's stamps; void once the node speaks again.
        gaps: how often an event's `prev` did not match what was held.
    """

    name: str
    announced: NodeAnnounced | None = None
    announced_stamp: Stamp = NEVER
    position: int = 0
    verified: bool = False
    signer: str = ""
    fingerprint: str = ""
    floor: Stamp = NEVER
    spoken: Stamp = NEVER
    left: Stamp = NEVER
    lost: Stamp = NEVER
    head: str = ""
    seen_ms: int = 0
    entries: dict[InstanceKey, InstanceEntry] = field(default_factory=dict)
    removed: dict[InstanceKey, tuple[Stamp, int]] = field(default_factory=dict)
    missing: dict[InstanceKey, Stamp] = field(default_factory=dict)
    expired: dict[InstanceKey, Stamp] = field(default_factory=dict)
    gaps: int = 0

    @property
    def latest(self) -> Stamp:
        """The latest stamp of anything the node said."""
        return max(self.spoken, self.left)

    @property
    def status(self) -> NodeStatus:
        """Whether the node lives, by what it said last and what witnesses said of it."""
        if self.left > self.spoken:
            return "left"
        return "lost" if self.lost >= self.spoken else "alive"


class Registry:
    """All nodes and instances of a mesh at one position of its stream.

    Attributes:
        position: the last position that was folded in.
        version: grows by one with every change that a reader could see.
        folded: how many events were folded in, whatever they changed: while it stays, nothing changed.
        changes: how often an instance was put or dropped.
        decreed: how often an operator's word was taken about what is listed.
        evictions: for `(service, node, id or None)`, an operator's latest word.
        revoked: fingerprint of each revoked certificate, and from which position on.
        roots: the CA certificates of the latest rotation.
        decrees: the record of each decree that this rests on, by its key in the bucket: signed, so
            that whoever holds it can give it to others.
        anchor: by what the stream is known again.
        current_ms: until when it is known to have been what the stream gave, unix milliseconds.
    """

    def __init__(self) -> None:
        self.position = 0
        self.version = 0
        self.folded = 0
        self.changes = 0
        self.decreed = 0
        self.nodes: Final[dict[str, NodeEntry]] = {}
        self.evictions: Final[dict[tuple[str, str, str | None], Eviction]] = {}
        self.revoked: Final[dict[str, int]] = {}
        self.roots = Roots()
        self.decrees: Final[dict[str, bytes]] = {}
        self.anchor = Anchor()
        self.current_ms = 0
        self._by_service: Final = Index[InstanceEntry]()
        self._by_capability: Final = Index[InstanceEntry]()
        self._count = 0

    def __len__(self) -> int:
        """How many instances are held."""
        return self._count

    def entries(self) -> Iterator[InstanceEntry]:
        """Yields every instance, grouped by service."""
        for group in self._by_service.groups():
            yield from group.values()

    def entry(self, key: InstanceKey) -> InstanceEntry | None:
        """Returns one instance, or None if it is not held."""
        return self._by_service.group(key.service).get(key)

    def of_service(self, service: str) -> Iterator[InstanceEntry]:
        """Yields the instances of one service."""
        yield from self._by_service.group(service).values()

    def group_of_service(self, service: str) -> Group[InstanceEntry]:
        """Returns the instances of one service, for its caller to read; empty if there is no such service."""
        return self._by_service.group(service)

    def basis_of(self, capabilities: tuple[str, ...]) -> Group[InstanceEntry] | Registry:
        """Returns that whose `changes` stay as they are while `with_capabilities` yields the same.

        What an instance can is said in its record, so whatever has all the capabilities is in the group
        of each, and one group tells.
        """
        if not capabilities:
            return self
        return min(map(self._by_capability.group, capabilities), key=len)

    def with_capabilities(self, capabilities: tuple[str, ...]) -> Iterator[InstanceEntry]:
        """Yields the instances that have every one of `capabilities`; all instances if there is none."""
        if not capabilities:
            yield from self.entries()
            return
        groups = sorted(map(self._by_capability.group, set(capabilities)), key=len)
        smallest, others = groups[0], groups[1:]
        for key, entry in smallest.items():
            for group in others:
                if key not in group:
                    break
            else:
                yield entry

    def services(self) -> Iterator[str]:
        """Yields the name of every service that has an instance."""
        yield from self._by_service

    def capabilities(self) -> Iterator[str]:
        """Yields every capability that an instance has."""
        yield from self._by_capability

    def put(self, entry: InstanceEntry) -> None:
        """Holds an instance, in the place of an earlier record of it."""
        key = entry.key
        node = self.nodes[key.node]
        earlier = node.entries.get(key)
        if earlier is None:
            self._count += 1
        else:
            self._unindex(key, earlier.record)
        node.entries[key] = entry
        self.changes += 1
        self._by_service.put(key.service, key, entry)
        for capability in entry.record.capabilities:
            self._by_capability.put(capability, key, entry)

    def drop(self, key: InstanceKey) -> None:
        """Forgets an instance that is held."""
        entry = self.nodes[key.node].entries.pop(key)
        self._count -= 1
        self.changes += 1
        self._unindex(key, entry.record)
        self._by_service.drop(key.service, key)

    def _unindex(self, key: InstanceKey, record: Instance) -> None:
        for capability in set(record.capabilities):
            self._by_capability.drop(capability, key)

    def is_evicted(self, key: InstanceKey) -> bool:
        """Returns whether an operator removed this instance, or its service from its node."""
        if not self.evictions:
            return False
        one = self.evictions.get((key.service, key.node, key.id))
        every = self.evictions.get((key.service, key.node, None))
        if one is None or every is None:
            return any(word.evicts for word in (one, every) if word is not None)
        return (one if one.turn.is_after(every.turn) else every).evicts

    def is_listed(self, entry: InstanceEntry) -> bool:
        """Returns whether readers of the registry see this instance at all."""
        expired = self.nodes[entry.record.node].expired
        if expired and entry.key in expired:
            return False
        return entry.fingerprint not in self.revoked and not (self.evictions and self.is_evicted(entry.key))

    def is_discoverable(self, entry: InstanceEntry) -> bool:
        """Returns whether a client that looks for this service should be sent to this instance."""
        node = self.nodes[entry.record.node]
        return node.status == "alive" and not entry.record.maintenance and self.is_listed(entry)

    def state(self) -> dict[str, Any]:
        """Returns everything that two replicas at the same position must agree on.

        Left out is what depends on which repetitions a replica happened to see.
        """
        return {
            "nodes": {
                name: (node.announced, node.position, node.verified, node.signer, node.floor, node.status)
                for name, node in self.nodes.items()
            },
            "instances": {
                entry.key: (entry.record, entry.stamp, entry.position, entry.time_ms, entry.signer)
                for entry in self.entries()
            },
            "listed": {entry.key for entry in self.entries() if self.is_listed(entry)},
            "evictions": dict(self.evictions),
            "revoked": dict(self.revoked),
            "roots": self.roots,
        }
