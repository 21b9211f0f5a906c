"""Instances as JSON, encoded once for each record of theirs and not for each answer.

What moves more often than the record, when its node was last seen and how that is, is put between the
two pieces that are kept.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core import query
from pmoves_mesh.core.names import NodeStatus
from pmoves_mesh.core.registry import InstanceEntry
from pmoves_mesh.views.http.kept import Kept

_encode: Final = msgspec.json.Encoder().encode

_KEPT_BYTES_MAX: Final = 4 * 1024 * 1024
_OVERHEAD_BYTES: Final = 200
_SEEN: Final = b'"last_seen":"'


class Pieces(Struct, gc=False):
    """An instance as `query.instance_view` shows it, but for what moves, which belongs between the two.

    Attributes:
        entry: what was encoded.
    """

    entry: InstanceEntry
    head: bytes
    tail: bytes
    _digest: bytes = b""

    @property
    def digest(self) -> bytes:
        """Of both pieces; reckoned once."""
        if not self._digest:
            self._digest = hashlib.blake2b(self.head + self.tail, digest_size=16).digest()
        return self._digest

    @property
    def size(self) -> int:
        """About what they take, in bytes."""
        return len(self.head) + len(self.tail) + _OVERHEAD_BYTES


class EncodedInstances:
    """Instances in pieces, as many as were asked for last."""

    def __init__(self, bytes_max: int = _KEPT_BYTES_MAX) -> None:
        """Begins with none.

        Args:
            bytes_max: how much is kept.
        """
        # By its identity, which nothing else can have while the entry itself is held here.
        self._kept: Final[Kept[int, Pieces]] = Kept(bytes_max)

    @property
    def kept_bytes(self) -> int:
        """About what is kept takes."""
        return self._kept.bytes

    def of(self, entry: InstanceEntry) -> Pieces:
        """Returns an instance in pieces, and keeps them."""
        pieces = self._kept.get(id(entry))
        if pieces is None:
            pieces = pieces_of(entry)
            self._kept.put(id(entry), pieces)
        return pieces


def pieces_of(entry: InstanceEntry) -> Pieces:
    """Returns an instance in pieces."""
    # The record is the view's beginning. Its last field is the owner's own `last_seen`; within a string
    # quotes are escaped, so nothing else can look like it from the end.
    record = _encode(entry.record)
    head = record[: record.rindex(_SEEN) + len(_SEEN)]
    tail = b',"revision":%d,"position":%d,"verified":%b,"signer":%b}' % (
        entry.stamp.revision,
        entry.position,
        b"true" if entry.verified else b"false",
        _encode(entry.signer),
    )
    return Pieces(entry, head, tail)


@lru_cache(4096)
def moving(status: NodeStatus, seen_ms: int) -> bytes:
    """Returns what belongs between the two pieces: when the instance was last seen, its node's status."""
    return f'{query.iso(seen_ms)}","node_status":"{status}"'.encode()
