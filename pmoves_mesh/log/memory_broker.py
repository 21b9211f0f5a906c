"""What JetStream holds for a mesh, in memory: the other side of `memory`, with no network in between.

Everything happens at once and in full; time comes from the clock that was given, so that a
simulation can run it in virtual time. What goes wrong with a server is here too: it restarts and
forgets what it kept in memory, its stream is made anew, or comes back from an older backup.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from msgspec import Struct

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.errors import SequenceConflict
from pmoves_mesh.log.subjects import overlap
from pmoves_mesh.ports import BucketEntry, Clock, LogBounds, LogMessage

DEDUP_WINDOW_MS: Final = 120_000
ACK_WAIT_S: Final = 30.0
MARKERS_ACK_WAIT_S: Final = 2.0
ACKS_PENDING_MAX: Final = 2000

_RAN_OUT: Final = {"Nats-Marker-Reason": "MaxAge"}
"""The header of the marker of a key whose time is over. Source: NATS ADR-48."""


class _Value(Struct, frozen=True):
    entry: BucketEntry
    expires_ms: int | None


class StreamBackup(Struct, frozen=True, kw_only=True):
    """What the stream held at some moment."""

    incarnation: int
    last: int
    messages: dict[int, LogMessage]
    expiries: list[tuple[int, int]]
    delivered: int
    unacked: dict[int, float]


class MemoryConsumer:
    """A durable consumer that several workers share: each message is handed to one of them."""

    def __init__(
        self, clock: Clock, after: Callable[[int, int], list[LogMessage]], ack_wait_s: float = ACK_WAIT_S
    ) -> None:
        """Takes what it needs.

        Args:
            clock: the time.
            after: gives the next messages after a position, up to so many.
            ack_wait_s: seconds after which a message is handed out again that nobody acknowledged.
        """
        self._clock = clock
        self._after = after
        self._ack_wait_s = ack_wait_s
        self._pulls: dict[asyncio.Event, None] = {}  # in order, so that a seed replays
        self.begin(0, {})

    def begin(self, delivered: int, unacked: dict[int, float]) -> None:
        """Takes up work after `delivered`, and what was handed out before, with its deadlines."""
        self.delivered = delivered
        self.unacked = dict(unacked)

    @contextmanager
    def pull(self) -> Iterator[asyncio.Event]:
        """Gives an event that is set when there is work, or when something else may have changed.

        As with a real consumer, work goes to the one who has waited longest, and to the next one if
        that one does not take it.
        """
        event = asyncio.Event()
        self._pulls[event] = None
        try:
            yield event
        finally:
            del self._pulls[event]
            if self._after(self.delivered, 1):
                self.offer()

    def offer(self) -> None:
        """Lets the one who has waited longest look for work."""
        for pull in self._pulls:
            if not pull.is_set():
                pull.set()
                return

    def wake(self) -> None:
        """Lets everybody who waits look again."""
        for pull in self._pulls:
            pull.set()

    def hand_out(self, count_max: int) -> list[LogMessage]:
        """Returns messages that nobody works on: first those whose worker fell silent, then new ones."""
        now = self._clock.monotonic_s()
        again: list[LogMessage] = []
        for position in sorted(position for position, until in self.unacked.items() if until <= now):
            found = self._after(position - 1, 1)
            if not found or found[0].position != position:
                del self.unacked[position]  # the stream has forgotten it
            elif len(again) < count_max:
                again.append(found[0])
        room = min(count_max - len(again), ACKS_PENDING_MAX - len(self.unacked))
        fresh = self._after(self.delivered, room) if room > 0 else []
        if fresh:
            self.delivered = fresh[-1].position
        for message in (*again, *fresh):
            self.unacked[message.position] = now + self._ack_wait_s
        return [*again, *fresh]

    def ack(self, position: int) -> None:
        """Notes that a message's work is done."""
        self.unacked.pop(position, None)

    def working(self, position: int) -> None:
        """Notes that a message is still worked on."""
        if position in self.unacked:
            self.unacked[position] = self._clock.monotonic_s() + self._ack_wait_s

    def floor(self) -> int:
        """Returns the position up to which every message was acknowledged."""
        return min(self.unacked) - 1 if self.unacked else self.delivered

    def overdue_in_s(self) -> float:
        """Returns seconds until a message has to be handed out again; an hour if there is none."""
        until = min(self.unacked.values(), default=None)
        return 3600.0 if until is None else max(0.0, until - self._clock.monotonic_s())


class MemoryBroker:
    """A stream, buckets and the materialiser's consumer, which several clients share.

    Attributes:
        consumer: of the stream's events.
        made: how often the stream was made, or restored; whoever follows it is cut off each time.
        expired: of the markers that say which keys of a bucket ran out, for each bucket; they come in
            the shape that NATS gives them, a message on the key's subject.
    """

    def __init__(self, clock: Clock) -> None:
        self.clock: Final = clock
        self.expired: Final[dict[str, MemoryConsumer]] = {}
        self._incarnation = self.made = 0
        self._listeners: dict[asyncio.Event, None] = {}  # in order, so that a seed replays
        self._buckets: dict[str, dict[str, _Value]] = {}
        self._revisions: dict[str, int] = {}
        self._due: dict[str, list[tuple[int, int, str]]] = {}
        self._markers: dict[str, list[LogMessage]] = {}
        self.consumer: Final = MemoryConsumer(clock, self._next)
        self.reset()

    def reset(self) -> None:
        """Deletes the stream with its consumer, and makes it anew; the buckets stay."""
        self.made += 1
        self._incarnation = self.made
        self._last = 0
        self._messages: dict[int, LogMessage] = {}
        self._positions: list[int] = []
        self._expiries: list[tuple[int, int]] = []
        self._ids: dict[str, tuple[int, int]] = {}
        self.consumer.begin(0, {})
        self.wake()

    def backup(self) -> StreamBackup:
        """Returns what the stream holds, with how far its consumer came."""
        self._expire()
        return StreamBackup(
            incarnation=self._incarnation,
            last=self._last,
            messages=dict(self._messages),
            expiries=list(self._expiries),
            delivered=self.consumer.delivered,
            unacked=dict(self.consumer.unacked),
        )

    def restore(self, backup: StreamBackup) -> None:
        """Replaces the stream by what it was: positions go back, though it says of itself what it said."""
        self.reset()
        self._incarnation = backup.incarnation
        self._last = backup.last
        self._messages = dict(backup.messages)
        self._positions = sorted(backup.messages)
        self._expiries = list(backup.expiries)
        self.consumer.begin(backup.delivered, backup.unacked)
        self.wake()

    def wake(self) -> None:
        """Lets everybody who waits look again."""
        for listener in self._listeners:
            listener.set()
        for consumer in (self.consumer, *self.expired.values()):
            consumer.wake()

    @contextmanager
    def listener(self) -> Iterator[asyncio.Event]:
        """Gives an event that is set whenever something may have changed."""
        event = asyncio.Event()
        self._listeners[event] = None
        try:
            yield event
        finally:
            del self._listeners[event]

    # The stream.

    def publish(self, sealed: SealedEvent, ttl_s: int | None) -> int:
        """Appends an event, unless its message id was seen within 2 min, and returns its position."""
        now = self.clock.now_ms()
        self._forget_ids(now)
        known = self._ids.get(sealed.message_id)
        if known is not None:
            return known[1]
        self._last += 1
        position = self._last
        self._messages[position] = LogMessage(sealed=sealed, position=position, time_ms=now)
        self._positions.append(position)
        if sealed.message_id:
            self._ids[sealed.message_id] = (now, position)
        if ttl_s is not None:
            heapq.heappush(self._expiries, (now + ttl_s * 1000, position))
        for listener in self._listeners:
            listener.set()
        self.consumer.offer()
        return position

    def bounds(self) -> LogBounds:
        """Returns which positions the stream holds."""
        self._expire()
        first = self._positions[0] if self._positions else self._last + 1
        return LogBounds(first=first, last=self._last, stream_id=f"memory-{self._incarnation}")

    def after(self, position: int, count_max: int) -> tuple[list[LogMessage], int]:
        """Returns the next messages, and how many there are after these."""
        self._expire()
        begin = bisect_right(self._positions, position)
        chosen = self._positions[begin : begin + count_max]
        return [self._messages[at] for at in chosen], len(self._positions) - begin - len(chosen)

    def _forget_ids(self, now: int) -> None:
        for message_id, (time_ms, _) in list(self._ids.items()):
            if time_ms + DEDUP_WINDOW_MS > now:
                return
            del self._ids[message_id]

    def _expire(self) -> None:
        now = self.clock.now_ms()
        while self._expiries and self._expiries[0][0] <= now:
            _, position = heapq.heappop(self._expiries)
            del self._messages[position]
            del self._positions[bisect_left(self._positions, position)]

    def _next(self, position: int, count_max: int) -> list[LogMessage]:
        return self.after(position, count_max)[0]

    # The buckets.

    def get(self, bucket: str, key: str) -> BucketEntry | None:
        """Returns a key's value, or None."""
        value = self._buckets.get(bucket, {}).get(key)
        return value.entry if value is not None and not self._is_over(value) else None

    def put(self, bucket: str, key: str, value: bytes, *, expected: int | None, ttl_s: int | None) -> int:
        """Writes a key and returns its revision.

        Raises:
            SequenceConflict: if the key has another revision than `expected`.
        """
        self.run_out(bucket)
        held = self.get(bucket, key)
        if expected is not None and expected != (held.revision if held else 0):
            raise SequenceConflict(key, expected)
        revision = self._next_revision(bucket)
        expires_ms = None if ttl_s is None else self.clock.now_ms() + ttl_s * 1000
        entry = BucketEntry(key=key, value=value, revision=revision)
        self._buckets.setdefault(bucket, {})[key] = _Value(entry, expires_ms)
        if expires_ms is not None:
            heapq.heappush(self._due.setdefault(bucket, []), (expires_ms, revision, key))
        return revision

    def delete(self, bucket: str, key: str, *, expected: int | None) -> None:
        """Removes a key, if it is there; nothing marks that it ran out.

        Raises:
            SequenceConflict: if the key has another revision than `expected`.
        """
        held = self.get(bucket, key)
        if expected is not None and expected != (held.revision if held else 0):
            raise SequenceConflict(key, expected)
        if self._buckets.get(bucket, {}).pop(key, None) is not None:
            self._next_revision(bucket)

    def scan(self, bucket: str, pattern: str) -> list[BucketEntry]:
        """Returns the values of all keys that match, in the order of their revisions."""
        values = self._buckets.get(bucket, {}).items()
        found = [value.entry for key, value in values if overlap(pattern, key) and not self._is_over(value)]
        return sorted(found, key=lambda entry: entry.revision)

    def expiries(self, bucket: str) -> MemoryConsumer:
        """Returns the consumer of a bucket's markers; it begins with those that are made after it."""
        if bucket not in self.expired:
            self.run_out(bucket)
            self.expired[bucket] = MemoryConsumer(
                self.clock, partial(self._next_markers, bucket), MARKERS_ACK_WAIT_S
            )
            self.expired[bucket].begin(len(self._markers.get(bucket, [])), {})
        return self.expired[bucket]

    def run_out(self, bucket: str) -> float:
        """Marks the keys whose time is over; returns seconds until the next one's is, at most an hour."""
        due, now = self._due.get(bucket, []), self.clock.now_ms()
        while due and due[0][0] <= now:
            _, revision, key = heapq.heappop(due)
            value = self._buckets.get(bucket, {}).get(key)
            if value is not None and value.entry.revision == revision:
                del self._buckets[bucket][key]
                self._next_revision(bucket)
                self._mark(bucket, key, now)
        return min(3600.0, (due[0][0] - now) / 1000) if due else 3600.0

    def lose(self, bucket: str) -> None:
        """Empties a bucket and counts from the beginning, as a restart does to one that is kept in memory."""
        for held in (self._buckets, self._revisions, self._due, self._markers):
            held.pop(bucket, None)
        consumer = self.expired.get(bucket)
        if consumer is not None:
            consumer.begin(0, {})
            consumer.wake()

    def _mark(self, bucket: str, key: str, now: int) -> None:
        markers = self._markers.setdefault(bucket, [])
        sealed = SealedEvent(subject=f"$KV.{bucket}.{key}", payload=b"", headers=dict(_RAN_OUT))
        markers.append(LogMessage(sealed=sealed, position=len(markers) + 1, time_ms=now))
        if bucket in self.expired:
            self.expired[bucket].offer()

    def _next_markers(self, bucket: str, position: int, count_max: int) -> list[LogMessage]:
        return self._markers.get(bucket, [])[position : position + count_max]

    def _is_over(self, value: _Value) -> bool:
        return value.expires_ms is not None and value.expires_ms <= self.clock.now_ms()

    def _next_revision(self, bucket: str) -> int:
        self._revisions[bucket] = self._revisions.get(bucket, 0) + 1
        return self._revisions[bucket]
