"""Clones: another host that ran with this node's identity, and was told to stop, is shown and stated."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import structlog

from pmoves_mesh.agent.author import Author, Place
from pmoves_mesh.core.event import NodeCloned
from pmoves_mesh.core.lease import Lease
from pmoves_mesh.errors import CapacityError, StoreError

_log: Final = structlog.get_logger(__name__)

_WAITING_MAX: Final = 16


class Clones:
    """Takes note of each clone; called by whoever keeps the lease.

    Attributes:
        latest: where the latest one ran, as it said itself; empty if there was none.
    """

    def __init__(self, author: Author) -> None:
        self.latest = ""
        self._author = author
        self._waiting: deque[Lease] = deque(maxlen=_WAITING_MAX)
        self._found = asyncio.Event()

    def warnings(self) -> list[str]:
        """Returns a line for a person, if there was a clone."""
        if not self.latest:
            return []
        return [
            (
                f"another host ({self.latest}) ran with this node's identity and was told to stop; "
                "give it a name and an identity of its own (pmoves-mesh join)"
            )
        ]

    def note(self, lease: Lease) -> None:
        """Takes note of the lease of a clone."""
        self.latest = lease.host
        self._waiting.append(lease)
        self._found.set()

    async def run(self) -> None:
        """States, for ever, what was noted."""
        while True:
            await self._found.wait()
            self._found.clear()
            while self._waiting:
                await self._state(self._waiting.popleft())

    async def _state(self, lease: Lease) -> None:
        def build(place: Place) -> tuple[NodeCloned, ...]:
            return (NodeCloned(**place, host=lease.host, clone=lease.incarnation),)

        try:
            await self._author.state(build)
        except (StoreError, CapacityError) as error:
            _log.warning("a clone is not stated", host=lease.host, detail=str(error))
