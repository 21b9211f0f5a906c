"""The saver: keeps this node's snapshot of the registry no older than it need be."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from pmoves_mesh.agent.heap import give_back
from pmoves_mesh.core import snapshot
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.errors import MalformedEvent, StoreError
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica
from pmoves_mesh.store.store import Store

_log: Final = structlog.get_logger(__name__)

_FIRST_S: Final = 1.0
_PAUSE_MIN_S: Final = 10.0
_PAUSE_PER_COST: Final = 100.0
"""A snapshot that takes 0.1 s to make is made every 10 s at most: 1 % of the time."""
_LARGE_BYTES: Final = 1024 * 1024
_AGE_MAX_MS: Final = 10 * 60 * 1000
"""An unchanged registry is saved again so seldom: all that is new in it is that it held until now."""


class Saver:
    """Loads the registry at the start, and saves it while it changes."""

    def __init__(self, mesh: str, replica: Replica, store: Store, clock: Clock) -> None:
        self._mesh = mesh
        self._replica = replica
        self._store = store
        self._clock = clock
        self._saved = (0, 0)
        self._saved_ms = 0
        self._was_large = False

    async def load(self) -> None:
        """Lets the replica begin from the snapshot, if there is one that can be read."""
        stored = await self._store.load_snapshot()
        if stored is None:
            return
        try:
            registry = snapshot.load(stored.blob, self._mesh)
        except MalformedEvent as error:
            _log.warning("snapshot not used", detail=str(error))
            return
        self._replica.restore(registry, stored.stream_id)
        self._saved, self._saved_ms = _moved_to(registry), registry.current_ms
        size = len(stored.blob)
        del stored
        await self._tidy(size)

    async def run(self) -> None:
        """Saves for ever, after changes, and seldom enough to cost next to nothing."""
        pause_s = _FIRST_S
        while True:
            await self._clock.sleep(pause_s)
            began_s = self._clock.monotonic_s()
            try:
                await self.save()
            except StoreError as error:
                _log.warning("snapshot not saved", detail=str(error))
            cost_s = self._clock.monotonic_s() - began_s
            pause_s = max(_PAUSE_MIN_S, cost_s * _PAUSE_PER_COST)

    async def save(self, *, last: bool = False) -> None:
        """Saves the registry, if it changed since, or held for longer than was saved.

        Args:
            last: whether this is the last chance, so that every moment counts that it held.

        Raises:
            StoreError: if it cannot be written.
        """
        registry, replica = self._replica.registry, self._replica
        now = _moved_to(registry)
        if replica.is_current:
            registry.current_ms = self._clock.now_ms()
        held_ms = registry.current_ms - self._saved_ms
        if replica.stream_id == "" or (now == self._saved and held_ms < (1 if last else _AGE_MAX_MS)):
            return
        blob = snapshot.dump(registry, self._mesh)
        await self._store.save_snapshot(registry.position, replica.stream_id, blob)
        self._saved, self._saved_ms = now, registry.current_ms
        await self._tidy(len(blob))

    async def _tidy(self, size: int) -> None:
        """Has the memory of large snapshots go back to the system: there is one every few seconds."""
        if size >= _LARGE_BYTES and not self._was_large:
            self._was_large = True
            await asyncio.to_thread(give_back)


def _moved_to(registry: Registry) -> tuple[int, int]:
    """Returns what differs once there is something to save; a repetition only moves the position."""
    return registry.anchor.position, registry.version
