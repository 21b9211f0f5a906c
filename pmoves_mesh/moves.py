"""The moves of a replica: who waits for it to reach a position is woken once, when it has."""

from __future__ import annotations

import asyncio


class Moves:
    """Those who wait, by the position that they wait for."""

    def __init__(self) -> None:
        self._waiting: dict[int, set[asyncio.Future[None]]] = {}

    async def reaching(self, position: int) -> None:
        """Waits for the next move that is at `position` or beyond it; 0 is any."""
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        others = self._waiting.setdefault(position, set())
        others.add(woken)
        try:
            await woken
        finally:
            others.discard(woken)
            if not others and self._waiting.get(position) is others:
                del self._waiting[position]

    def tell(self, position: int) -> None:
        """Wakes whoever waits for this position, or one before it."""
        for reached in [one for one in self._waiting if one <= position]:
            for woken in self._waiting.pop(reached):
                if not woken.done():
                    woken.set_result(None)
