"""Rebuilding: makes the registry bucket anew from the stream, and settles it if that was replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from contextlib import aclosing, suppress
from typing import Final

from msgspec import Struct

from pmoves_mesh.core import projection, records
from pmoves_mesh.core.change import Change
from pmoves_mesh.core.continuity import Reach
from pmoves_mesh.core.envelope import VerifiedEvent
from pmoves_mesh.core.event import NodeAnnounced, Noted, Removed
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.errors import LogUnavailable, RemoteProtocolError, SequenceConflict
from pmoves_mesh.ports import (
    Bucket,
    BucketEntry,
    Clock,
    EventLog,
    LogBounds,
    LogMessage,
)
from pmoves_mesh.progress import Progress, unheard
from pmoves_mesh.verifier import Verifier, message_of

_READ_S: Final = 120.0
_REVOKED: Final = "revoked."


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


class Ledger:
    """Folds the stream and keeps, for each key, the record that the bucket should hold.

    Attributes:
        held: that record, by key.
        registry: what the same events make of an empty registry.
    """

    def __init__(self) -> None:
        self.held: Final[dict[str, Record]] = {}
        self.registry: Final = Registry()

    def recall(self, record: Record, verified: Iterable[VerifiedEvent]) -> None:
        """Heeds what the stream has forgotten and the bucket has not, which stays as it is there."""
        for one in verified:
            projection.apply(self.registry, one, position=record.position, time_ms=record.time_ms)

    def fold(self, message: LogMessage, verified: Iterable[VerifiedEvent]) -> None:
        """Takes in what one message states."""
        for one in verified:
            change = projection.apply(self.registry, one, position=message.position, time_ms=message.time_ms)
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
            if held is not None and self.registry.entry(gone) is None and not records.is_removal(held):
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


async def rebuild(
    log: EventLog, bucket: Bucket, verifier: Verifier, clock: Clock, progress: Progress = unheard
) -> Rebuilt:
    """Writes what the stream gives into the bucket, and removes what it does not give.

    Keys whose event is older than the stream's first one are left as they are, if they prove
    themselves: the stream has forgotten them, the mesh has not.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    await settle(log, bucket)
    await verifier.learn_roots(bucket)
    await verifier.admit_all()
    bounds = await log.bounds()
    revocations = [record async for record in _revocations(bucket)]
    ledger = await replay(log, verifier, bounds, revocations, progress)
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
        progress("comparing the bucket", len(seen), max(len(seen), len(wanted)))
        record, held = wanted.get(entry.key), await _proved(entry, verifier)
        if held is not None and held.position > bounds.last:
            continue  # written since the replay began
        if record is None:
            # A removal that nothing needs any more goes by itself.
            if held is None or (held.position >= bounds.first and not records.is_removal(held)):
                deleted += await _drop(bucket, entry)
        elif held != (whole := _with_forgotten(record, held, bounds.first)):
            written += await _write(bucket, entry.key, whole, entry.revision)
    missing = [(key, record) for key, record in wanted.items() if key not in seen]
    for number, (key, record) in enumerate(missing, 1):
        written += await _write(bucket, key, record, 0)
        progress("writing the bucket", number, len(missing))
    return Rebuilt(keys=len(wanted), written=written, deleted=deleted, position=bounds.last)


async def _proved(entry: BucketEntry, verifier: Verifier) -> Record | None:
    """Returns a bucket's value as a record, or None if it is none, or nobody would believe it."""
    record = records.readable(entry.value)
    return record if record is not None and await verifier.proved(entry.key, record) else None


async def expected(
    log: EventLog, verifier: Verifier, held: Mapping[str, Record], progress: Progress = unheard
) -> tuple[dict[str, Record], Ledger]:
    """Returns what the bucket should hold, and what the stream gives together with what it forgot.

    Args:
        log: the stream.
        verifier: what its events come through.
        held: the records in the bucket that prove themselves, by their keys.
        progress: is told how far the stream has been read.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    bounds = await log.bounds()
    revocations = (one for key, one in held.items() if key.startswith(_REVOKED))
    ledger = await replay(log, verifier, bounds, revocations, progress)
    wanted = {
        key: _with_forgotten(record, held.get(key), bounds.first) for key, record in ledger.held.items()
    }
    for key, record in sorted(held.items(), key=lambda item: item[1].position):
        if record.position >= bounds.first:
            continue
        wanted.setdefault(key, record)
        for one in reversed(tuple(parts_of(record))):
            with suppress(RemoteProtocolError):
                ledger.fold(message_of(one), await verifier.unseal_record(one))
    return wanted, ledger


async def settle(log: EventLog, bucket: Bucket, *, every: bool = False) -> int:
    """Marks what the bucket holds of an earlier stream as of before this one; returns how many keys.

    A position says nothing in another stream than its own. So if a record's event does not stand
    there, as when the stream was made anew or restored, the record keeps its event and loses its
    position.

    Args:
        log: the stream as it is now.
        bucket: the registry bucket.
        every: whether each record is compared with the stream; else the latest one speaks for all.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    if not every:
        reach = Reach()
        async for entry in bucket.load():
            if (record := records.readable(entry.value)) is not None:
                reach.note(record)
        if await continues(log, reach):
            return 0
    held = [
        (entry, record)
        async for entry in bucket.load()
        if (record := records.readable(entry.value)) is not None
    ]
    # Read after the bucket, so that whatever is in the bucket and in this stream is within.
    bounds = await log.bounds()
    positions = {one.position for _, record in held for one in parts_of(record) if one.position}
    standing = await _standing(log, {each for each in positions if bounds.first <= each <= bounds.last})
    settled = 0
    for entry, record in held:
        if any(
            one.position > bounds.last
            or (one.position >= bounds.first and (one.position, one.sealed.payload) not in standing)
            for one in parts_of(record)
        ):
            settled += await _write(bucket, entry.key, records.of_before(record), entry.revision)
    return settled


async def continues(log: EventLog, reach: Reach) -> bool:
    """Returns whether the latest of what the bucket holds stands in the stream, or was in it earlier.

    Args:
        log: the stream as it is now.
        reach: of all that the bucket holds.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    # Asked after the bucket was read, so that whatever is in the bucket and in this stream is within.
    bounds, last = await log.bounds(), reach.position
    if last > bounds.last:
        return False
    standing = await _standing(log, {last} if last >= bounds.first else ())
    return last < bounds.first or all((last, payload) in standing for payload in reach.payloads)


def parts_of(record: Record) -> Iterable[Record]:
    """Returns a record, and the one that it ended."""
    return (record,) if record.ended is None else (record, record.ended)


async def _standing(log: EventLog, positions: Collection[int]) -> set[tuple[int, bytes]]:
    """Returns what stands in the stream at some of its positions.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    found: set[tuple[int, bytes]] = set()
    if not positions:
        return found
    last = max(positions)
    try:
        async with asyncio.timeout(_READ_S), aclosing(log.tail(min(positions) - 1)) as tail:
            async for batch in tail:
                if batch.pending is None:
                    raise LogUnavailable("the log went away while it was read")
                found.update(
                    (message.position, message.sealed.payload)
                    for message in batch.messages
                    if message.position in positions
                )
                if batch.pending == 0 or (batch.messages and batch.messages[-1].position >= last):
                    break
    except TimeoutError:
        raise LogUnavailable(f"the log was not read within {_READ_S:.0f} s") from None
    return found


async def _revocations(bucket: Bucket) -> AsyncIterator[Record]:
    async for entry in bucket.load(f"{_REVOKED}>"):
        if (record := records.readable(entry.value)) is not None:
            yield record


async def replay(
    log: EventLog,
    verifier: Verifier,
    bounds: LogBounds,
    revocations: Iterable[Record],
    progress: Progress = unheard,
) -> Ledger:
    """Returns what the stream gives.

    Args:
        log: the stream.
        verifier: what its events come through.
        bounds: of the stream; what comes after them is left out.
        revocations: those that the bucket holds. What the stream has forgotten of them is heeded
            first: what they end is still in the stream.
        progress: is told how far the stream has been read.

    Raises:
        LogUnavailable: if the log cannot be reached.
    """
    ledger = Ledger()
    for record in revocations:
        if record.position < bounds.first:
            with suppress(RemoteProtocolError):
                ledger.recall(record, await verifier.unseal_record(record))
    if bounds.last == 0:
        return ledger
    async with aclosing(log.tail(0)) as tail:
        async for batch in tail:
            if batch.pending is None:
                raise LogUnavailable("the log went away while it was read")
            for message in batch.messages:
                try:
                    ledger.fold(message, await verifier.unseal(message))
                except RemoteProtocolError as error:
                    verifier.refuse(message, error)
            if batch.messages:
                read = batch.messages[-1].position - bounds.first + 1
                progress("reading the stream", read, max(read, bounds.last - bounds.first + 1))
            if batch.pending == 0 or (batch.messages and batch.messages[-1].position >= bounds.last):
                break
    return ledger


async def _write(bucket: Bucket, key: str, record: Record, revision: int) -> bool:
    """Writes a key, unless somebody else just did, who knows as much."""
    with suppress(SequenceConflict):
        await bucket.put(key, records.encode(record), expected=revision, ttl_s=_ttl_s(record))
        return True
    return False


async def _drop(bucket: Bucket, entry: BucketEntry) -> bool:
    with suppress(SequenceConflict):
        await bucket.delete(entry.key, expected=entry.revision)
        return True
    return False


def _with_forgotten(record: Record, held: Record | None, first: int) -> Record:
    """Returns a record together with what the bucket holds of before the stream's first event."""
    for earlier in (held, held.ended if held else None):
        if earlier is not None and earlier.position < first:
            record = records.merged(record, earlier) or record
    return record


def _ttl_s(record: Record) -> int | None:
    return records.TOMBSTONE_TTL_S if records.is_removal(record) else None
