"""The sweeper: finds what no marker told of, and ends what was lost long ago.

Each round it looks at the leases of a few nodes, in an order of its own that comes to all of them; only
where one is missing does it look at all. So the cost of a mesh at rest does not grow with its size.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from functools import partial
from itertools import islice
from typing import Final

import structlog

from pmoves_mesh.agent.liveness.witness import Suspicion, Witness
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.core.witness import TURN_S, Spells, absence_max_s, silence_max_s
from pmoves_mesh.errors import LogError
from pmoves_mesh.ports import Bucket, Clock
from pmoves_mesh.replica import Replica

_log: Final = structlog.get_logger(__name__)
_random: Final = secrets.SystemRandom()

_TICK_MAX_S: Final = 1.0
_TICKS_PER_TTL: Final = 4
_JITTER: Final = 0.1
_LOOKED_AT: Final = 3
_FOLLOWED_MAX: Final = 256
_EXPIRED_MAX: Final = 500


class Sweeper:
    """Looks for nodes that are gone with nobody having said so.

    Args:
        witness: who states it.
        replica: what is known.
        leases: of all nodes.
        clock: the time.
        announce_s: between announcements, in the smallest mesh.
    """

    def __init__(
        self, witness: Witness, replica: Replica, leases: Bucket, clock: Clock, *, announce_s: float
    ) -> None:
        self._witness = witness
        self._replica = replica
        self._leases = leases
        self._clock = clock
        self._announce_s = announce_s
        self._swept_over = ""
        self._absent = Spells()
        self._silent = Spells()
        self._lost = Spells()
        self._seen_version = -1
        self._seen_unsigned: dict[str, Stamp] = {}
        self._seen_lost: dict[str, Stamp] = {}
        self._to_look_at: list[str] = []
        self._look_at_s = 0.0

    async def run(self) -> None:
        """Sweeps for ever."""
        while True:
            tick_s = min(_TICK_MAX_S, self._witness.ttl_s / _TICKS_PER_TTL)
            await self._clock.sleep(tick_s * (1 - _random.uniform(0, _JITTER)))
            try:
                await self._sweep()
            except LogError as error:
                self._forget()
                _log.debug("not swept", detail=str(error))

    async def _sweep(self) -> None:
        connection = self._witness.connection
        if connection != self._swept_over:
            self._forget()
        self._swept_over = connection
        if not self._witness.may_judge or not self._replica.is_current:
            self._forget()
            return
        await self._sweep_leases()
        await self._sweep_unsigned()
        await self._sweep_lost()

    def _see(self) -> None:
        """Looks through all nodes for whom there are rules besides leases, if the registry has moved."""
        registry = self._replica.registry
        if registry.version == self._seen_version:
            return
        self._seen_version = registry.version
        self._seen_unsigned, self._seen_lost = {}, {}
        for name, node in registry.nodes.items():
            status = node.status
            if status == "lost" and node.entries:
                self._seen_lost[name] = node.lost
            elif status == "alive" and node.latest.incarnation == 0 and node.announced is not None:
                self._seen_unsigned[name] = node.latest

    def _forget(self) -> None:
        """Gives everybody all the time once more: what was seen before an outage says nothing after it."""
        self._absent.clear()
        self._silent.clear()
        self._to_look_at.clear()
        self._look_at_s = self._clock.monotonic_s() + self._witness.ttl_s / _TICKS_PER_TTL

    # Nodes that have no lease

    async def _sweep_leases(self) -> None:
        now_s, ttl_s = self._clock.monotonic_s(), self._witness.ttl_s
        if now_s < self._look_at_s:
            return
        self._look_at_s = now_s + ttl_s
        signing = self._witness.signing()
        if not self._absent.lasting(now_s) and not await self._misses_any(list(signing)):
            return
        held = set(await self._leases.keys())
        absent = {name: node.latest for name, node in signing.items() if name not in held}
        self._absent.see(absent, now_s)
        if absent:
            self._look_at_s = now_s + ttl_s / _TICKS_PER_TTL
        due = self._due(self._absent, absence_max_s(ttl_s))
        gone = self._witness.has_no_lease
        await self._follow(
            Suspicion(node=name, reason="it has no lease", gone=partial(gone, name)) for name in due
        )

    async def _misses_any(self, names: list[str]) -> bool:
        """Looks at a few leases, and returns whether one is missing."""
        if not self._to_look_at:
            _random.shuffle(names)
            self._to_look_at = names
        looked_at, self._to_look_at = self._to_look_at[:_LOOKED_AT], self._to_look_at[_LOOKED_AT:]
        found = await asyncio.gather(*map(self._leases.get, looked_at))
        return None in found

    # Nodes that never had one

    async def _sweep_unsigned(self) -> None:
        """Follows up who announced itself without a signature, and has stopped to.

        Who was only ever told of by others, as by a registry of older days, need not announce itself.
        """
        self._see()
        unsigned = self._seen_unsigned
        self._silent.see(unsigned, self._clock.monotonic_s())
        due = self._due(self._silent, silence_max_s(self._announce_s, len(self._replica.registry.nodes)))
        gone, reason = self._witness.has_been_silent, "it announces itself no more"
        await self._follow(
            Suspicion(node=name, reason=reason, gone=partial(gone, name, unsigned[name])) for name in due
        )

    # Nodes that are lost

    async def _sweep_lost(self) -> None:
        """Ends the instances of those who stayed lost for as long as each of them says."""
        self._see()
        nodes = self._replica.registry.nodes
        self._lost.see(self._seen_lost, self._clock.monotonic_s())
        due: list[InstanceKey] = []
        for name, lasted_s in self._lost.lasting(self._clock.monotonic_s()).items():
            node, turn_s = nodes[name], self._witness.rank(name) * TURN_S
            due += [
                key
                for key, entry in node.entries.items()
                if key not in node.expired and lasted_s >= entry.record.deregister_after + turn_s
            ]
        await asyncio.gather(*map(self._witness.state_expired, due[:_EXPIRED_MAX]))

    def _due(self, spells: Spells, longest_s: float) -> list[str]:
        """Returns whose spell has lasted too long, and long enough for this witness's turn."""
        over = {
            name: lasted_s - longest_s
            for name, lasted_s in spells.lasting(self._clock.monotonic_s()).items()
            if lasted_s >= longest_s
        }
        return [name for name, over_s in over.items() if over_s >= self._witness.rank(name) * TURN_S]

    async def _follow(self, suspicions: Iterable[Suspicion]) -> None:
        await asyncio.gather(*map(self._witness.follow, islice(suspicions, _FOLLOWED_MAX)))
