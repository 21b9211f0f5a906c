"""What happened in a simulation, line by line: the same lines for the same seed."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
from collections import Counter
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import structlog
from law import Law

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.log.endings import Ending
from pmoves_mesh.log.memory import MemoryBroker, MemoryClient
from pmoves_mesh.log.memory_broker import DEDUP_WINDOW_MS
from pmoves_mesh.log.topology import LEASES
from pmoves_mesh.ports import Clock


class Chronicle:
    """The lines so far, and what went wrong.

    Attributes:
        violations: promises that were broken.
        happened: how often each kind of fault and of call was there.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.violations: list[str] = []
        self.happened: Counter[str] = Counter()

    def note(self, what: str) -> None:
        self.lines.append(f"{asyncio.get_running_loop().time():10.4f} {what}")

    def violate(self, what: str) -> None:
        self.note(f"VIOLATION {what}")
        self.violations.append(what)

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()

    @contextmanager
    def taking_logs(self) -> Iterator[None]:
        """Takes in what the agents log, instead of its being printed."""
        before = structlog.get_config()
        structlog.configure(processors=[self._take])
        try:
            yield
        finally:
            structlog.configure(**before)

    def _take(self, _logger: Any, method: str, fields: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if method != "debug":
            self.note(f"log {fields['event']}: {fields.get('detail') or fields.get('first', '')}")
        raise structlog.DropEvent


class ChronicledBroker(MemoryBroker):
    """A broker that tells what it did, and forgets the ids of messages as early as it is told to.

    Attributes:
        changed_s: when it last took something that it is to keep.
        message_ids: of all that it ever took, by position; one that was lost may be taken again.
        listening: who is told of connections that ended, each over its own connection.
    """

    def __init__(self, clock: Clock, chronicle: Chronicle, law: Law, dedup_window_s: float) -> None:
        super().__init__(clock)
        self.chronicle = chronicle
        self._early_ms = DEDUP_WINDOW_MS - int(dedup_window_s * 1000)
        self.changed_s = 0.0
        self.message_ids: dict[int, list[str]] = {}
        self.law = law
        self.listening: dict[asyncio.Queue[Ending], MemoryClient] = {}

    def publish(self, sealed: SealedEvent, ttl_s: int | None) -> int:
        last = self.bounds().last
        position = super().publish(sealed, ttl_s)
        if position <= last:
            return position  # taken before
        self.message_ids.setdefault(position, []).append(sealed.message_id)
        self.law.take(sealed, position)
        self.chronicle.note(f"stream {position}: {sealed.message_id}{f' for {ttl_s} s' if ttl_s else ''}")
        if ttl_s is None:
            self.changed_s = self.clock.monotonic_s()
        return position

    def _forget_ids(self, now: int) -> None:
        super()._forget_ids(now + self._early_ms)

    def put(self, bucket: str, key: str, value: bytes, *, expected: int | None, ttl_s: int | None) -> int:
        revision = super().put(bucket, key, value, expected=expected, ttl_s=ttl_s)
        if bucket == LEASES:
            return revision
        # A certificate's key is its fingerprint, which is another one in every run.
        self.chronicle.note(f"bucket {bucket} {revision}: {key if '.' in key else 'certificate'}")
        self.changed_s = self.clock.monotonic_s()
        return revision

    def delete(self, bucket: str, key: str, *, expected: int | None) -> None:
        super().delete(bucket, key, expected=expected)
        if bucket == LEASES:
            return
        self.chronicle.note(f"bucket {bucket}: {key} deleted")
        self.changed_s = self.clock.monotonic_s()

    def tell_end(self, ending: Ending) -> None:
        """Tells whoever listens that a connection ended; what gets lost is not told again."""
        for told, client in self.listening.items():
            if client.connected and not client.happens(client.faults.drop):
                told.put_nowait(ending)

    def forget(self, part: float, position_max: int | None = None, *, unread: bool = False) -> None:
        """Forgets a part of the events, the oldest, as a stream that is full does.

        Args:
            part: of those that it may forget.
            position_max: the latest that it may forget; None for any.
            unread: whether it also forgets what the bucket does not have yet.
        """
        last = self.bounds().last
        end = min(last if position_max is None else position_max, last if unread else self.consumer.floor())
        done = [position for position in self._positions if position <= end]
        for position in done[: int(len(done) * part)]:
            del self._messages[position]
        self._positions = [position for position in self._positions if position in self._messages]
        self._expiries = [each for each in self._expiries if each[1] in self._messages]
        heapq.heapify(self._expiries)
        self.chronicle.note(f"the stream now begins at {self.bounds().first}")

    def is_worked_off(self) -> bool:
        """Returns whether every event was handed out and acknowledged."""
        return not self.consumer.unacked and not self.after(self.consumer.delivered, 1)[0]
