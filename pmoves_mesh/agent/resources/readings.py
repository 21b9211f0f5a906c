"""Readings: what is found out about other nodes only once somebody asks, and then kept for a while.

Nothing is read for a mesh in which nobody asks. One loop does all the reading, a few nodes at a time,
so however many ask, each node is read once in a while; and whoever asks is answered from memory, at
most a moment later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

import structlog

from pmoves_mesh.errors import LogError
from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

_T = TypeVar("_T")

AT_ONCE: Final = 64
_WANTED_MAX: Final = 1024
_KEPT_MAX: Final = 4096
_ROUND_S: Final = 5.0


class Reading(NamedTuple, Generic[_T]):
    """What was read of a node, and how many seconds ago."""

    value: _T
    age_s: float


class Terms(NamedTuple):
    """How long readings are good for, in seconds.

    Attributes:
        fresh_s: until then nothing is read again.
        kept_s: until then a reading is answered with while a newer one is fetched.
        wait_s: so long an asker waits for what is not known, or no longer good.
    """

    fresh_s: float
    kept_s: float
    wait_s: float


class Readings(Generic[_T]):
    """Readings of one kind, by node."""

    def __init__(
        self, read: Callable[[Sequence[str]], Awaitable[Mapping[str, _T]]], clock: Clock, terms: Terms
    ) -> None:
        """Takes what reads.

        Args:
            read: returns what it finds of up to 64 nodes; those of which it finds nothing are left out.
                It may raise `LogError`.
            clock: the time.
            terms: how long readings are good for.
        """
        self._read = read
        self._clock = clock
        self._terms = terms
        self._held: dict[str, tuple[float, _T]] = {}
        self._tried: dict[str, float] = {}
        self._wanted: dict[str, None] = {}
        self._asked = asyncio.Event()
        self._news = asyncio.Condition()

    async def of(self, nodes: Collection[str]) -> dict[str, Reading[_T]]:
        """Returns what is known of some nodes, after a moment where that is nothing yet."""
        now_s, terms = self._clock.monotonic_s(), self._terms
        due = [node for node in nodes if not self._was_tried(node, now_s)][:_WANTED_MAX]
        if due:
            self._wanted |= dict.fromkeys(due)
            self._asked.set()
            unknown = [node for node in due if self._age_s(node, now_s) > terms.kept_s]
            await self._wait(unknown, now_s)
        now_s = self._clock.monotonic_s()
        return {
            node: Reading(self._held[node][1], now_s - self._held[node][0])
            for node in nodes
            if node in self._held
        }

    async def run(self) -> None:
        """Reads what is asked for, for ever."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            while self._wanted:
                some = list(self._wanted)[:AT_ONCE]
                found = await self._read_some(some)
                now_s = self._clock.monotonic_s()
                for node in some:
                    del self._wanted[node]
                    self._tried.pop(node, None)
                    self._tried[node] = now_s
                for node, value in found.items():
                    self._held.pop(node, None)
                    self._held[node] = now_s, value
                _trim(self._tried)
                _trim(self._held)
                async with self._news:
                    self._news.notify_all()

    async def _read_some(self, nodes: Sequence[str]) -> Mapping[str, _T]:
        try:
            async with asyncio.timeout(_ROUND_S):
                return await self._read(nodes)
        except (TimeoutError, LogError) as error:
            _log.debug("nodes not read", detail=str(error))
            return {}

    async def _wait(self, nodes: Iterable[str], since_s: float) -> None:
        """Waits until each of some nodes was tried since then, or for as long as an asker waits."""
        waiting = set(nodes)

        def tried() -> bool:
            return all(self._tried.get(node, -1.0) >= since_s for node in waiting)

        try:
            async with asyncio.timeout(self._terms.wait_s), self._news:
                await self._news.wait_for(tried)
        except TimeoutError:
            return

    def _was_tried(self, node: str, now_s: float) -> bool:
        tried_s = self._tried.get(node)
        return tried_s is not None and now_s - tried_s < self._terms.fresh_s

    def _age_s(self, node: str, now_s: float) -> float:
        held = self._held.get(node)
        return float("inf") if held is None else now_s - held[0]


def _trim(kept: dict[str, object] | dict[str, float] | dict[str, tuple[float, _T]]) -> None:
    """Forgets what was taken in first, above the bound."""
    while len(kept) > _KEPT_MAX:
        del kept[next(iter(kept))]
