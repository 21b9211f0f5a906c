"""Records: what the registry bucket holds, a key for a key.

A record is the last signed event for its key, bytes and headers, with its place in the stream:
whoever reads the bucket can verify it alone. `guard` decides whether a record may replace
another, so that any agent may write the bucket, in any order.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.core.event import (
    CertificatesRevoked,
    EnrolmentRefused,
    Event,
    IdentityIssued,
    InstanceDeregistered,
    InstanceEvicted,
    InstanceExpired,
    InstanceUnregistered,
    NodeAnnounced,
    NodeCloned,
    NodeLeft,
    NodeLost,
    RootsRotated,
)
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.core.names import Counter
from pmoves_mesh.core.registry import Turn
from pmoves_mesh.errors import MalformedEvent

TOMBSTONE_TTL_S: Final = 24 * 60 * 60
"""How long the bucket remembers a removal: far longer than an announcement is awaited."""


ROOTS_KEY: Final = "roots"
"""The bucket key of the latest rotation of the CA: a newcomer reads it first."""


class Record(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The value of a key in the registry bucket.

    Attributes:
        position: where in the stream the event stands; 0 if it stood in an earlier one, and this one
            was made anew or restored since.
        time_ms: when the stream took it, unix milliseconds.
        event: the payload, byte for byte.
        stamp: of the event; the compare-and-set goes by it.
        ended: for an event that ends something, the record of what it ends: the last announcement
            of a node that left or is lost, the last statement about an instance that expired.
        certificate: the signer's (DER), where the bucket of identities may have lost it.
    """

    position: Counter
    time_ms: Counter
    subject: str
    headers: dict[str, str]
    event: msgspec.Raw
    stamp: Stamp
    ended: Record | None = None
    certificate: bytes | None = None

    @property
    def sealed(self) -> SealedEvent:
        """The event as it travelled."""
        return SealedEvent(subject=self.subject, payload=bytes(self.event), headers=self.headers)


_ENCODER: Final = msgspec.json.Encoder()
_DECODER: Final = msgspec.json.Decoder(Record)


def record_of(sealed: SealedEvent, event: Event, *, position: int, time_ms: int) -> Record:
    """Returns the record of an event."""
    return Record(
        position=position,
        time_ms=time_ms,
        subject=sealed.subject,
        headers=sealed.headers,
        event=msgspec.Raw(sealed.payload),
        stamp=event.stamp,
    )


def encode(record: Record) -> bytes:
    """Returns a record as JSON."""
    return _ENCODER.encode(record)


def decode(data: bytes | memoryview) -> Record:
    """Returns the record that `encode` made.

    Raises:
        MalformedEvent: if the bytes are no record.
    """
    try:
        return _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedEvent("record", str(error)) from None


def readable(data: bytes | memoryview) -> Record | None:
    """Returns a bucket's value as a record, or None if it is none, and so to be written anew."""
    try:
        return decode(data)
    except MalformedEvent:
        return None


def instance_key(key: InstanceKey) -> str:
    """Returns the bucket key of an instance."""
    return f"service.{key.service}.{key.node}.{key.id}"


def node_key(node: str) -> str:
    """Returns the bucket key of a node."""
    return f"node.{node}"


def parse_instance_key(key: str) -> InstanceKey | None:
    """Returns the instance that a bucket key names, or None if it names none."""
    match key.split("."):
        case ["service", service, node, instance_id]:
            return InstanceKey(service, node, instance_id)
        case _:
            return None


def key_of(event: Event) -> str:
    """Returns the bucket key under which an event is held."""
    match event:
        case NodeAnnounced() | NodeLeft() | NodeLost():
            return node_key(event.node)
        case InstanceEvicted():
            return f"evicted.{event.service}.{event.node}.{event.id or '_'}"
        case CertificatesRevoked():
            return f"revoked.{event.operator}.{event.incarnation}.{event.revision}"
        case RootsRotated():
            return ROOTS_KEY
        case NodeCloned() | IdentityIssued() | EnrolmentRefused():
            return f"noted.{event.node}"
        case _:
            return instance_key(event.key)


def of_before(record: Record) -> Record:
    """Returns a record whose position is that of no event of this stream."""
    ended = None if record.ended is None else of_before(record.ended)
    return msgspec.structs.replace(record, position=0, ended=ended)


def is_removal(record: Record) -> bool:
    """Returns whether a record only remembers that its key is gone."""
    return record.subject in _REMOVALS


def merged(held: Record | None, fresh: Record) -> Record | None:
    """Returns what the bucket should hold once `fresh` is known, or None if it holds that already.

    The newer stamp wins; of two copies, the first in the stream. An ending (a leave, a loss, an
    expiry) with the stamp of what it ends is newer than that, and keeps it: the node can still be
    shown, and what it takes back by speaking again can still be fetched. Any order of the same
    records ends with the same value.
    """
    if held is None:
        return fresh
    latest = _later(held, fresh)
    if latest.subject in _ENDINGS:
        statements = [record for record in map(_statement, (held, fresh)) if record is not None]
        ended = max(statements, key=_rank, default=None)
        latest = msgspec.structs.replace(latest, ended=ended)
    return None if latest == held else latest


def is_taken_back(held: Record, latest: Stamp) -> bool:
    """Returns whether an instance expired, and its node lists it again at `latest`.

    Then the record is to be that of the instance once more: a removal is forgotten in time.
    """
    return held.subject == InstanceExpired.subject and held.stamp < latest


def _statement(record: Record) -> Record | None:
    return record.ended if record.subject in _ENDINGS else record


def _later(held: Record, fresh: Record) -> Record:
    """Returns the later of two records of one key."""
    if {held.subject, fresh.subject} <= _DECREES:
        one, other = Turn(held.position, held.time_ms), Turn(fresh.position, fresh.time_ms)
        if one.is_after(other) or other.is_after(one):
            return held if one.is_after(other) else fresh
        return max(held, fresh, key=_is_whole)
    return max(held, fresh, key=_rank)


def _is_whole(record: Record) -> bool:
    return record.certificate is not None


def _rank(record: Record) -> tuple[Stamp, int, int, bool]:
    return record.stamp, _RANKS.get(record.subject, 0), -(record.position or _FAR), _is_whole(record)


_REMOVALS: Final = frozenset(
    {InstanceDeregistered.subject, InstanceUnregistered.subject, InstanceExpired.subject}
)
_ENDINGS: Final = {NodeLost.subject: 1, InstanceExpired.subject: 1, NodeLeft.subject: 2}
_RANKS: Final = {**_ENDINGS, InstanceUnregistered.subject: -1}
"""At one stamp an ending outranks what it ends; the older word for a removal, which the stream soon
forgets, comes behind the removal itself."""
_FAR: Final = 2**62
"""What is of before this stream comes behind everything in it."""
_DECREES: Final = frozenset({InstanceEvicted.subject, RootsRotated.subject})
