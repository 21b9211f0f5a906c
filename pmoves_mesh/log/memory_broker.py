"""What JetStream holds for a mesh, in memory: the other side of `memory`, with no network in between.

Everything happens at once and in full; time comes from the clock that was given, so that a
simulation can run it in virtual time.
"""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from msgspec import Struct

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.errors import SequenceConflict
from pmoves_mesh.log.subjects import overlap
from pmoves_mesh.ports import BucketEntry, Clock, LogBounds, LogMessage

DEDUP_WINDOW_MS: Final = 120_000
ACK_WAIT_S: Final = 30.0
ACKS_PENDING_MAX: Final = 2000


class _Value(Struct, frozen=True):
    entry: BucketEntry
    expires_ms: int | None


class MemoryBroker:
    """A stream, buckets and the materialiser's consumer, which several clients share."""

    def __init__(self, clock: Clock) -> None:
        self.clock: Final = clock
        self._incarnation = 0
        self._listeners: dict[asyncio.Event, None] = {}  # in order, so that a seed replays
        self._buckets: dict[str, dict[str, _Value]] = {}
        self._revisions: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        """Deletes the stream with its consumer, and makes it anew; the buckets stay."""
        self._incarnation += 1
        self._last = 0
        self._messages: dict[int, LogMessage] = {}
        self._positions: list[int] = []
        self._expiries: list[tuple[int, int]] = []
        self._ids: dict[str, tuple[int, int]] = {}
        self._delivered = 0
        self._unacked: dict[int, float] = {}
        self.wake()

    def wake(self) -> None:
        """Lets everybody who waits look again."""
        for listener in self._listeners:
            listener.set()

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
        self.wake()
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

    # The consumer.

    def hand_out(self, count_max: int) -> list[LogMessage]:
        """Returns messages that nobody works on: first those whose worker fell silent, then new ones."""
        self._expire()
        now = self.clock.monotonic_s()
        overdue = [position for position, until in self._unacked.items() if until <= now]
        for gone in [position for position in overdue if position not in self._messages]:
            del self._unacked[gone]
        again = [self._messages[at] for at in sorted(overdue) if at in self._messages][:count_max]
        room = min(count_max - len(again), ACKS_PENDING_MAX - len(self._unacked))
        fresh = self.after(self._delivered, room)[0] if room > 0 else []
        if fresh:
            self._delivered = fresh[-1].position
        for message in (*again, *fresh):
            self._unacked[message.position] = now + ACK_WAIT_S
        return [*again, *fresh]

    def ack(self, position: int) -> None:
        """Notes that a message's work is done."""
        self._unacked.pop(position, None)

    def floor(self) -> int:
        """Returns the position up to which every message was acknowledged."""
        return min(self._unacked) - 1 if self._unacked else self._delivered

    def overdue_in_s(self) -> float:
        """Returns seconds until a message has to be handed out again; an hour if there is none."""
        until = min(self._unacked.values(), default=None)
        return 3600.0 if until is None else max(0.0, until - self.clock.monotonic_s())

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
        held = self.get(bucket, key)
        if expected is not None and expected != (held.revision if held else 0):
            raise SequenceConflict(key, expected)
        revision = self._next_revision(bucket)
        expires_ms = None if ttl_s is None else self.clock.now_ms() + ttl_s * 1000
        entry = BucketEntry(key=key, value=value, revision=revision)
        self._buckets.setdefault(bucket, {})[key] = _Value(entry, expires_ms)
        return revision

    def delete(self, bucket: str, key: str, *, expected: int | None) -> None:
        """Removes a key, if it is there.

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

    def lose(self, bucket: str) -> None:
        """Empties a bucket and counts from the beginning, as a restart does to one that is kept in memory."""
        self._buckets.pop(bucket, None)
        self._revisions.pop(bucket, None)

    def _is_over(self, value: _Value) -> bool:
        return value.expires_ms is not None and value.expires_ms <= self.clock.now_ms()

    def _next_revision(self, bucket: str) -> int:
        self._revisions[bucket] = self._revisions.get(bucket, 0) + 1
        return self._revisions[bucket]
