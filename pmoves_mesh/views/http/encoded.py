"""Instances as JSON, encoded once for each record of theirs and not for each answer.

What moves more often than the record, its node's status and when that was last seen, is put between
the pieces that are kept.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import msgspec

from pmoves_mesh.core import query
from pmoves_mesh.core.registry import InstanceEntry, Registry

_encode: Final = msgspec.json.Encoder().encode

_KEPT_BYTES_MAX: Final = 16 * 1024 * 1024
_OVERHEAD_BYTES: Final = 400
_STATUS: Final = b'"node_status":"'
_SEEN: Final = b'"last_seen":"'


class _Pieces(NamedTuple):
    """The entry that was encoded, and what is said before, between and after what moves."""

    entry: InstanceEntry
    head: bytes
    middle: bytes
    tail: bytes


class EncodedInstances:
    """Encodes instances as `query.instance_view` shows them.

    Attributes:
        kept_bytes: about what is kept takes.
    """

    def __init__(self) -> None:
        # By its identity, which nothing else can have while the entry itself is held here.
        self._kept: dict[int, _Pieces] = {}
        self.kept_bytes = 0

    def of(self, registry: Registry, entry: InstanceEntry) -> bytes:
        """Returns one instance as a JSON object."""
        pieces = self._kept.get(id(entry)) or self._take(registry, entry)
        node = registry.nodes[entry.record.node]
        status, seen = _moving(node.status, max(entry.time_ms, node.seen_ms))
        return b"%b%b%b%b%b" % (pieces.head, status, pieces.middle, seen, pieces.tail)

    def _take(self, registry: Registry, entry: InstanceEntry) -> _Pieces:
        whole = _encode(query.instance_view(registry, entry))
        # Within a string its quotes would be escaped, and metadata stands between the two.
        head, status, rest = whole.partition(_STATUS)
        middle, seen, tail = rest.rpartition(_SEEN)
        pieces = _Pieces(entry, head + status, middle[middle.index(b'"') :] + seen, tail[tail.index(b'"') :])
        size = len(whole) + _OVERHEAD_BYTES
        if self.kept_bytes + size > _KEPT_BYTES_MAX:
            self._kept.clear()
            self.kept_bytes = 0
        self._kept[id(entry)] = pieces
        self.kept_bytes += size
        return pieces


@lru_cache(4096)
def _moving(status: str, seen_ms: int) -> tuple[bytes, bytes]:
    return status.encode(), query.iso(seen_ms).encode()
