"""What was found for a question, and whether the same would be found again.

That rests upon few things: a group of the registry, of which the records are that were looked at; whether
their nodes live, and when each was last seen; and the operators' words. Nothing else is in an answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol, Self

from msgspec import Struct

from pmoves_mesh.core.registry import InstanceEntry, NodeEntry, Registry
from pmoves_mesh.views.http.encoded import Pieces, moving

_BYTES: Final = 700


class Changing(Protocol):
    """What tells how often it was changed."""

    changes: int


class Told(NamedTuple):
    """A body, in parts, and its ETag without quotes: the same wherever the body is the same."""

    parts: list[bytes]
    tag: str


Body = Callable[[list[bytes]], list[bytes]]


class Found(Struct, gc=False):
    """Instances that were found, each of a node that lives, the best first.

    Attributes:
        body: makes a body of the inside of a JSON array of them, both in parts; the first is one part.
        basis: changes whenever other instances, or other records of theirs, would be looked at.
        changes: how often it had been changed; less than nothing if this cannot be told for long.
        decreed: how many words of operators had been taken.
        living: the nodes of what was looked at that live.
        others: those that do not.
        seen_ms: the sum of when the living ones were last seen, each of which only grows.
        pieces: what was found, encoded; at least one.
        pieces_bytes: how much that is.
        ready: what its keeper made of the first so many of them; emptied when a node was seen since.
        ready_bytes: how much that is.
        turn: when its keeper last asked whether it holds.
    """

    body: Body
    registry: Registry
    basis: Changing
    changes: int
    decreed: int
    living: Sequence[NodeEntry]
    others: Sequence[NodeEntry]
    seen_ms: int
    pieces: Sequence[Pieces]
    pieces_bytes: int
    ready: dict[int, bytes]
    ready_bytes: int = 0
    turn: int = 0

    @classmethod
    def among(
        cls,
        body: Body,
        registry: Registry,
        basis: Changing,
        looked_at: Iterable[InstanceEntry],
        best: Sequence[InstanceEntry],
        encode: Callable[[InstanceEntry], Pieces],
    ) -> Self:
        """Returns the best of all that were looked at, encoded."""
        living: list[NodeEntry] = []
        others: list[NodeEntry] = []
        for name in {entry.record.node for entry in looked_at}:
            node = registry.nodes[name]
            (living if node.status == "alive" else others).append(node)
        seen_ms = sum([node.seen_ms for node in living])
        # What expired of a living node is there again as soon as that says anything.
        changes = -1 if any(node.expired for node in living) else basis.changes
        pieces = [encode(entry) for entry in best]
        size = sum([piece.size for piece in pieces])
        return cls(
            body, registry, basis, changes, registry.decreed, living, others, seen_ms, pieces, size, {}
        )

    @property
    def count(self) -> int:
        """How many instances were found."""
        return len(self.pieces)

    @property
    def size(self) -> int:
        """About what it takes, in bytes."""
        return _BYTES + self.pieces_bytes + self.ready_bytes

    def holds(self) -> bool:
        """Returns whether the same would be found again."""
        if self.basis.changes != self.changes or self.registry.decreed != self.decreed:
            return False
        for node in self.living:
            if node.status != "alive" or node.expired:
                return False
        # What has expired matters only of a living node: nobody is sent to another.
        return not self.others or all(node.status != "alive" for node in self.others)

    def is_seen_since(self) -> bool:
        """Returns whether a node was seen since it was asked last, so that nothing is ready any more."""
        seen_ms = sum([node.seen_ms for node in self.living])
        if seen_ms == self.seen_ms:
            return False
        self.seen_ms = seen_ms
        return True

    def told(self, count: int) -> Told:
        """Returns the body that answers with the first so many of the instances."""
        nodes = self.registry.nodes
        pieces = self.pieces[:count]
        between = [
            moving("alive", max(entry.time_ms, nodes[entry.record.node].seen_ms))
            for entry in [piece.entry for piece in pieces]
        ]
        first = pieces[0].head + between[0] + pieces[0].tail
        if count == 1:
            return Told(self.body([first]), hashlib.blake2b(first, digest_size=8).hexdigest())
        items = [b","] * (4 * count - 1)
        items[::4] = [piece.head for piece in pieces]
        items[1::4] = between
        items[2::4] = [piece.tail for piece in pieces]
        items[:3] = [first]
        # What may be long is read once, and not whenever a node was seen since.
        digest = hashlib.blake2b(b"".join([piece.digest for piece in pieces] + between), digest_size=8)
        return Told(self.body(items), digest.hexdigest())
