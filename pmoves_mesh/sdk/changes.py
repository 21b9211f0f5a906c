"""What changes in a directory, told to one reader at its own pace, and never more than is new."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final, Literal

from msgspec import Struct

from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.instance import Instance


class Change(Struct, frozen=True, kw_only=True):
    """An instance that came, changed or went.

    Attributes:
        key: service, node and id.
        instance: as it is now; as it was last if it went.
    """

    kind: Literal["added", "changed", "removed"]
    key: InstanceKey
    instance: Instance


class Changes:
    """Tells one reader of every instance first, then of what changes.

    What changes twice before it is read is told once, as it is then: so what waits is never more than
    there are instances, however slowly the reader reads.
    """

    def __init__(self, directory: Directory, name: str | None, capabilities: frozenset[str]) -> None:
        self._directory = directory
        self._name = name
        self._capabilities: Final = capabilities
        self._told: Final[dict[InstanceKey, Instance]] = {}
        self._news: Final[dict[InstanceKey, None]] = {}
        self._arrived = asyncio.Event()

    async def follow(self) -> AsyncGenerator[Change, None]:
        """Yields changes without end."""
        with self._directory.listened(self._notice):
            for instance in tuple(self._directory):
                self._notice(instance.key)
            while True:
                await self._arrived.wait()
                self._arrived.clear()
                while self._news:
                    key = next(iter(self._news))
                    del self._news[key]
                    change = self._change(key)
                    if change is not None:
                        yield change

    def _notice(self, key: InstanceKey) -> None:
        if self._name in {None, key.service}:
            self._news[key] = None
            self._arrived.set()

    def _change(self, key: InstanceKey) -> Change | None:
        """Returns what is new for the reader, or None if what was new is so no more."""
        before, now = self._told.get(key), self._directory.get(key)
        if now is not None and not self._capabilities.issubset(now.capabilities):
            now = None
        if now is None:
            self._told.pop(key, None)
            return None if before is None else Change(kind="removed", key=key, instance=before)
        self._told[key] = now
        if now == before:
            return None
        return Change(kind="added" if before is None else "changed", key=key, instance=now)
