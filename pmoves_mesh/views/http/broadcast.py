"""What all watchers with one filter are told: each change encoded once, and the latest remembered.

Remembered is which instances changed, not what was said of them, so that whoever comes back is told
how they are now, once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import Final, NamedTuple

from pmoves_mesh.core.feed import Difference, Feed, Kind
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.query import Filter
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.views.http import events, listing
from pmoves_mesh.views.http.watcher import Watcher

RECENT_MAX: Final = 4096
_PART_BYTES: Final = 64 * 1024

_serials: Final = count()


class _Recent(NamedTuple):
    """An instance that differed, when that was told, and how it differed."""

    position: int
    key: InstanceKey
    kind: Kind


class _Snapshot(NamedTuple):
    """A list as it was encoded, and of which registry."""

    version: int
    made_s: float
    parts: list[bytes]


class Broadcast:
    """One filter, whoever watches with it, and the latest changes.

    Attributes:
        feed: what matches.
        watchers: who is told of changes.
        users: how many requests need it now.
        idle_s: since when nobody does, monotonic seconds.
    """

    def __init__(self, registry: Registry, wanted: Filter, *, position: int, exact: bool) -> None:
        """Begins with what matches now.

        Args:
            registry: where it matches.
            wanted: the filter.
            position: the registry's.
            exact: whether everything that the registry holds is in the stream up to there.
        """
        self.feed: Final = Feed(registry, wanted)
        self.watchers: Final[set[Watcher]] = set()
        self.users = 0
        self.idle_s = 0.0
        self._told = 0
        self._serial: Final = next(_serials)
        self._floor = position - 1 if exact else position
        self._recent: Final[deque[_Recent]] = deque()
        self._dirty: Final[dict[InstanceKey, None]] = {}
        self._replaced = False
        self._snapshot: _Snapshot | None = None
        self._making: Final = asyncio.Lock()

    @property
    def state(self) -> tuple[int, int]:
        """Something that changes when the answer does, and never comes again."""
        return self._serial, self._told

    @property
    def told(self) -> int:
        """How many differences there were."""
        return self._told

    def note(self, key: InstanceKey) -> None:
        """Takes note of an instance that may have changed."""
        self._dirty[key] = None

    def replace(self, floor: int) -> None:
        """Takes note that another registry took the place of the one before.

        Args:
            floor: from no position up to this one can anybody go on.
        """
        self._replaced = True
        self._floor = max(self._floor, floor)
        self._recent.clear()

    def look(self, registry: Registry, position: int) -> bytes:
        """Finds out what has changed, and returns it as events for whoever watches."""
        if not self._dirty and not self._replaced:
            return b""
        keys = tuple(self._dirty)
        self._dirty.clear()
        if self._replaced:
            self._replaced, differences = False, list(self.feed.compare(registry))
        else:
            differences = list(self.feed.update(registry, keys))
        if not differences:
            return b""
        self._snapshot = None
        self._told += len(differences)
        self._recent.extend(_Recent(position, one.key, one.kind) for one in differences)
        while len(self._recent) > RECENT_MAX:
            self._floor = max(self._floor, self._recent.popleft().position)
        return events.of_differences(registry, differences, position) if self.watchers else b""

    def since(self, told: int, registry: Registry, position: int) -> bytes | None:
        """Returns what has changed since so many differences were told; None if that is forgotten."""
        news = self._told - told
        if news > len(self._recent):
            return None
        recent = list(self._recent)[len(self._recent) - news :]
        return events.of_differences(registry, self._now(registry, recent, -1), position)

    def after(self, resumed: int, registry: Registry, position: int) -> bytes | None:
        """Returns what has changed since a reader was told `resumed`; None if that is not known.

        What was told at that very position is told again: a connection may have broken in its midst.
        """
        if not self._floor < resumed <= position:
            return None
        recent = [one for one in self._recent if one.position >= resumed]
        return events.of_differences(registry, self._now(registry, recent, resumed), position)

    async def snapshot(self, registry: Registry, now_s: float) -> list[bytes]:
        """Returns what `GET /api/services` would answer, encoded once for all who come within a second."""
        async with self._making:
            held = self._snapshot
            if held is None or held.version != registry.version or now_s - held.made_s > 1.0:
                version = registry.version
                found = await listing.found(registry, self.feed.wanted)
                parts = listing.body({"count": found.count}, services=found)
                held = self._snapshot = _Snapshot(version, now_s, list(_joined(parts)))
            return held.parts

    def _now(self, registry: Registry, recent: Iterable[_Recent], known_until: int) -> Iterator[Difference]:
        """Yields how instances that differed are now; one that came and went meanwhile is not told.

        Args:
            registry: where they are.
            recent: how they differed, in order.
            known_until: what was told at this position may be known already.
        """
        first: dict[InstanceKey, _Recent] = {}
        for one in recent:
            first.setdefault(one.key, one)
        for key, one in first.items():
            entry = self.feed.held(registry, key)
            if entry is not None:
                yield Difference("added" if one.kind == "added" else "changed", key, entry)
            elif one.kind != "added" or one.position == known_until:
                yield Difference("removed", key, None)


def _joined(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yields parts together, so that none is small but the last."""
    some = bytearray()
    for part in parts:
        some += part
        if len(some) >= _PART_BYTES:
            yield bytes(some)
            some.clear()
    yield bytes(some)
