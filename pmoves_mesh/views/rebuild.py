"""Rebuilding: makes the registry bucket anew from the stream alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from pmoves_mesh.core import projection, records
from pmoves_mesh.core.change import Change
from pmoves_mesh.core.envelope import VerifiedEvent
from pmoves_mesh.core.event import NodeAnnounced, Noted, Removed
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.errors import RemoteProtocolError
from pmoves_mesh.ports import Bucket, Clock, EventLog, LogMessage
from pmoves_mesh.verifier import Verifier


class Rebuilt(Struct, frozen=True, kw_only=True):
    """What a rebuild did to the bucket.

    Attributes:
        keys: how many keys the stream gives.
        written: how many of them the bucket lacked or held otherwise.
        deleted: how many keys it held that the stream does not give.
        position: up to which the stream was read.
    """

    keys: int
    written: int
    deleted: int
    position: int


class _Ledger:
    """Folds the stream and keeps, for each key, the record that the bucket should hold."""

    def __init__(self) -> None:
        self.held: Final[dict[str, Record]] = {}
        self._registry = Registry()

    def recall(self, message: LogMessage, verified: Iterable[VerifiedEvent]) -> None:
        """Heeds what the stream has forgotten and the bucket has not, which stays as it is there."""
        for one in verified:
            projection.apply(self._registry, one, position=message.position, time_ms=message.time_ms)

    def fold(self, message: LogMessage, verified: Iterable[VerifiedEvent]) -> None:
        for one in verified:
            change = projection.apply(self._registry, one, position=message.position, time_ms=message.time_ms)
            late = change.outcome == "outdated" and isinstance(one.event, Removed | Noted)
            if late or change.outcome in {"applied", "repeated"}:
                self._record(message, one, change)

    def _record(self, message: LogMessage, one: VerifiedEvent, change: Change) -> None:
        event = one.event
        fresh = records.record_of(message.sealed, event, position=message.position, time_ms=message.time_ms)
        key = records.key_of(event)
        self.held[key] = records.merged(self.held.get(key), fresh) or self.held[key]
        if not isinstance(event, NodeAnnounced):
            return
        for gone in change.instances:
            name = records.instance_key(gone)
            held = self.held.get(name)
            if held is not None and self._registry.entry(gone) is None and not records.is_removal(held):
                del self.held[name]
        for line in event.instances or ():
            self._take_back(records.instance_key(InstanceKey(line.name, event.node, line.id)), event.stamp)

    def _take_back(self, name: str, latest: Stamp) -> None:
        """Puts an instance back that a witness removed before its node listed it again."""
        held = self.held.get(name)
        if held is None or not records.is_taken_back(held, latest):
            return
        if held.ended is not None:
            self.held[name] = held.ended
        else:
            del self.held[name]  # the stream has forgotten it, which the bucket has not


async def rebuild(log: EventLog, bucket: Bucket, verifier: Verifier, clock: Clock) -> Rebuilt:
    """Writes what the stream gives into the bucket, and removes what it does not give.

    Keys whose event is older than the stream's first one are left as they are: the stream has
    forgotten them, the mesh has not.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    await verifier.learn_roots(bucket)
    await verifier.admit_all()
    bounds = await log.bounds()
    ledger = _Ledger()
    await _recall(ledger, bucket, verifier, bounds.first)
    await _replay(ledger, log, verifier, bounds.last)
    written = deleted = 0
    fresh_ms = clock.now_ms() - records.TOMBSTONE_TTL_S * 1000
    wanted = {
        key: record
        for key, record in ledger.held.items()
        if not records.is_removal(record) or record.time_ms > fresh_ms
    }
    seen: set[str] = set()
    async for entry in bucket.load():
        seen.add(entry.key)
        record, held = wanted.get(entry.key), records.readable(entry.value)
        if held is not None and held.position > bounds.last:
            continue  # written since the replay began
        if record is None:
            # A removal that nothing needs any more goes by itself.
            if held is None or (held.position >= bounds.first and not records.is_removal(held)):
                await bucket.delete(entry.key, expected=entry.revision)
                deleted += 1
        elif held != (whole := _with_forgotten(record, held, bounds.first)):
            await bucket.put(entry.key, records.encode(whole), expected=entry.revision, ttl_s=_ttl_s(whole))
            written += 1
    for key, record in wanted.items():
        if key not in seen:
            await bucket.put(key, records.encode(record), expected=0, ttl_s=_ttl_s(record))
            written += 1
    return Rebuilt(keys=len(wanted), written=written, deleted=deleted, position=bounds.last)


async def _recall(ledger: _Ledger, bucket: Bucket, verifier: Verifier, first: int) -> None:
    """Takes the revocations of before the stream's first event: what they end is still in the stream."""
    async for entry in bucket.load("revoked.>"):
        record = records.readable(entry.value)
        if record is None or record.position >= first:
            continue
        message = LogMessage(sealed=record.sealed, position=record.position, time_ms=record.time_ms)
        await _take(message, verifier, ledger.recall)


async def _replay(ledger: _Ledger, log: EventLog, verifier: Verifier, last: int) -> None:
    if last == 0:
        return
    async for batch in log.tail(0):
        for message in batch.messages:
            await _take(message, verifier, ledger.fold)
        if batch.pending == 0 or (batch.messages and batch.messages[-1].position >= last):
            break


async def _take(
    message: LogMessage,
    verifier: Verifier,
    take: Callable[[LogMessage, Iterable[VerifiedEvent]], None],
) -> None:
    try:
        take(message, await verifier.unseal(message))
    except RemoteProtocolError as error:
        verifier.refuse(message, error)


def _with_forgotten(record: Record, held: Record | None, first: int) -> Record:
    """Returns a record together with what the bucket holds of before the stream's first event."""
    for earlier in (held, held.ended if held else None):
        if earlier is not None and earlier.position < first:
            record = records.merged(record, earlier) or record
    return record


def _ttl_s(record: Record) -> int | None:
    return records.TOMBSTONE_TTL_S if records.is_removal(record) else None
