"""The materialiser: keeps the registry bucket equal to what the stream says.

All agents share one durable consumer, so each event is written by one of them and no leader is
needed. The replica decides what holds; the compare-and-set on the key's revision makes it right
in any order. An event is acknowledged once its key is written, so the consumer's ack floor is
the position up to which the bucket is complete.

The bucket is read where an agent boots; replicas are asked all the time. So while events come thick,
they are for the replicas first: the bucket then follows in larger steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import structlog

from pmoves_mesh.core import records
from pmoves_mesh.core.decrees import is_revoked
from pmoves_mesh.core.event import Event, InstanceExpired, InstanceRegistered, NodeAnnounced, Stated
from pmoves_mesh.core.model import NEVER, InstanceKey, Stamp
from pmoves_mesh.core.records import Record
from pmoves_mesh.errors import (
    LogError,
    MeshError,
    RemoteProtocolError,
    ReplicaBehindError,
    RightMissing,
    SequenceConflict,
)
from pmoves_mesh.ports import Bucket, BucketEntry, Clock, Delivery, LogMessage, WorkQueue
from pmoves_mesh.replica import Replica

_log: Final = structlog.get_logger(__name__)

_BATCH_MAX: Final = 256
_FETCH_S: Final = 5.0
_REST_S: Final = 1.0
_LAG_MAX: Final = 10_000
_BEHIND_S: Final = 5.0
_RETRY_S: Final = 0.25
_REFUSED_RETRY_S: Final = 5.0
_COMPLAINT_EVERY_S: Final = 60.0
_CONFLICTS_MAX: Final = 20


class Materialiser:
    """Writes what its replica accepted into the bucket.

    Attributes:
        written: how many keys it wrote.
        conflicts: how often another agent was quicker.
    """

    def __init__(self, queue: WorkQueue, bucket: Bucket, replica: Replica, clock: Clock) -> None:
        self.written = 0
        self.conflicts = 0
        self._complained_s = -_COMPLAINT_EVERY_S
        self._queue = queue
        self._bucket = bucket
        self._replica = replica
        self._clock = clock

    async def run(self) -> None:
        """Takes events from the shared queue for ever; an outage of the log is waited out."""
        while True:
            try:
                if deliveries := await self._queue.fetch(_BATCH_MAX, _FETCH_S):
                    await self._take(deliveries)
            except (LogError, ReplicaBehindError) as error:
                # What was not acknowledged is handed out again, here or elsewhere.
                await self._wait_out(error)

    async def _take(self, deliveries: Sequence[Delivery]) -> None:
        """Writes what was handed out, and rests if more events came meanwhile, unless many wait already."""
        # What is handed out again may come behind what is new.
        latest = max(delivery.message.position for delivery in deliveries)
        await self._replica.wait_position(latest, _BEHIND_S, following=True)
        reached = self._replica.position
        await self._write_all(deliveries)
        if reached < self._replica.position < latest + _LAG_MAX:
            await self._clock.sleep(_REST_S)

    async def _wait_out(self, error: MeshError) -> None:
        """Waits a moment, longer where only a person can help; that is said once a minute."""
        if isinstance(error, RightMissing):
            now_s = self._clock.monotonic_s()
            if now_s - self._complained_s >= _COMPLAINT_EVERY_S:
                self._complained_s = now_s
                _log.warning("this node does not write the registry bucket", detail=str(error))
            await self._clock.sleep(_REFUSED_RETRY_S)
            return
        _log.debug("materialiser waits", detail=str(error))
        await self._clock.sleep(_RETRY_S)

    async def _write_all(self, deliveries: Sequence[Delivery]) -> None:
        # Events for different keys are independent; those for one key go in their order.
        by_key: dict[str, list[tuple[LogMessage, Event]]] = {}
        for delivery in deliveries:
            for event in await self._accepted(delivery.message):
                by_key.setdefault(records.key_of(event), []).append((delivery.message, event))
        results = await asyncio.gather(
            *(self._write_key(key, work) for key, work in by_key.items()), return_exceptions=True
        )
        failures = [result for result in results if result is not None]
        failed = {
            message.position
            for work, result in zip(by_key.values(), results, strict=True)
            if result is not None
            for message, _ in work
        }
        for delivery in deliveries:
            if delivery.message.position not in failed:
                await delivery.ack()
        if failures:
            raise failures[0]

    async def _accepted(self, message: LogMessage) -> list[Event]:
        """Returns what the replica made of a message and may still have to be written."""
        try:
            verified = await self._replica.verifier.unseal(message)
        except RemoteProtocolError:
            return []  # the replica counted it
        registry, position = self._replica.registry, message.position
        return [
            one.event
            for one in verified
            if not is_revoked(registry, one, position=position) and self._holds(one.event, position)
        ]

    def _holds(self, event: Event, position: int) -> bool:
        registry = self._replica.registry
        match event:
            case NodeAnnounced():
                node = registry.nodes.get(event.node)
                return node is not None and node.position == position
            case _ if isinstance(event, Stated):
                entry = registry.entry(event.key)
                return entry is not None and entry.stamp == event.stamp
            case InstanceExpired():
                node = registry.nodes.get(event.node)
                return node is not None and event.stamp <= node.expired.get(event.key, NEVER)
            case _:
                return True

    async def _write_key(self, key: str, work: list[tuple[LogMessage, Event]]) -> None:
        fresh = [
            records.record_of(message.sealed, event, position=message.position, time_ms=message.time_ms)
            for message, event in work
        ]
        await self._merge(key, fresh, is_new=isinstance(work[0][1], InstanceRegistered))
        for _, event in work:
            if isinstance(event, NodeAnnounced) and event.instances is not None:
                await self._follow_manifest(event)

    async def _merge(self, key: str, fresh: list[Record], *, is_new: bool) -> None:
        """Writes the newest of `fresh`, unless the bucket holds something newer."""
        # What is new is seldom there already, and if it is, the bucket says so.
        entry = None if is_new else await self._bucket.get(key)
        for _ in range(_CONFLICTS_MAX):
            held = result = records.readable(entry.value) if entry else None
            for record in fresh:
                result = records.merged(result, record) or result
            if result is None or result == held:
                return
            try:
                await self._bucket.put(
                    key,
                    records.encode(result),
                    expected=entry.revision if entry else 0,
                    ttl_s=records.TOMBSTONE_TTL_S if records.is_removal(result) else None,
                )
            except SequenceConflict:
                self.conflicts += 1
                entry = await self._bucket.get(key)
                continue
            self.written += 1
            return
        raise SequenceConflict(key, 0)

    async def _follow_manifest(self, announced: NodeAnnounced) -> None:
        """Removes the instances that a manifest leaves out, and takes expired ones back that it lists."""
        listed = {
            records.instance_key(InstanceKey(line.name, announced.node, line.id))
            for line in announced.instances or ()
        }
        async for entry in self._bucket.load(f"service.*.{announced.node}.*"):
            if entry.key not in listed:
                await self._drop(entry.key, announced.stamp)
            else:
                await self._take_back(entry, announced.stamp)

    async def _take_back(self, entry: BucketEntry, latest: Stamp) -> None:
        """Puts an instance back that a witness removed before its node spoke again."""
        held = records.readable(entry.value)
        if held is None or held.ended is None or not records.is_taken_back(held, latest):
            return
        await self._bucket.put(entry.key, records.encode(held.ended), expected=entry.revision)
        self.written += 1

    async def _drop(self, key: str, latest: Stamp) -> None:
        """Removes a key whose record is no later than `latest`, but for what remembers a removal."""
        for _ in range(_CONFLICTS_MAX):
            entry = await self._bucket.get(key)
            held = records.readable(entry.value) if entry else None
            if entry is None or held is None or held.stamp > latest or records.is_removal(held):
                return
            try:
                await self._bucket.delete(key, expected=entry.revision)
            except SequenceConflict:
                self.conflicts += 1
                continue
            return
        raise SequenceConflict(key, 0)
