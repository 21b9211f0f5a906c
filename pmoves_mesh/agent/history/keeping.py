"""Keeping: makes the checkpoints that are missing, and removes those that are of no use any more.

They stand at multiples of a step, so that all agents make the same ones, and whoever is first has done it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from pmoves_mesh.agent.history.replay import Checkpoints, Past, Replayed, Replayer
from pmoves_mesh.core import checkpoint
from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.core.envelope import SigningIdentity
from pmoves_mesh.core.milestones import due_positions, is_of_use, joins
from pmoves_mesh.core.moments import Kept, Moment
from pmoves_mesh.core.registry import Registry

_log: Final = structlog.get_logger(__name__)


class Keeping:
    """Makes checkpoints in the name of this node.

    Args:
        identity: reads who this node is; it is renewed now and then.
        seed: returns the registry as it is now by the bucket, for a stream that has lost its beginning.
    """

    def __init__(
        self,
        past: Past,
        checkpoints: Checkpoints,
        replayer: Replayer,
        identity: Callable[[], SigningIdentity],
        seed: Callable[[], Awaitable[Registry]],
    ) -> None:
        self._past = past
        self._checkpoints = checkpoints
        self._replayer = replayer
        self._identity = identity
        self._seed = seed

    async def keep(self, position: int) -> list[int]:
        """Makes what is missing up to a position, and returns of which positions that was.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        kept = await self._past.kept()
        places = await self._swept(kept)
        held: Replayed | None = None
        if kept.first > 1 and not any(joins(place, kept) for place in places):
            seed = await self._seed()
            held = Replayed(seed, seed.position, kept.first_ms, None)
        made: list[int] = []
        for due in due_positions(min(position, kept.last), kept, places):
            moment = Moment(field="at", position=due)
            if held is None:
                held = await self._replayer.at(moment, kept)
            elif held.registry.position <= due:
                held = await self._replayer.onward(held, moment, kept)
            else:
                continue
            if await self._make(held, due, kept):
                made.append(due)
        return made

    async def _make(self, held: Replayed, due: int, kept: Kept) -> bool:
        held.registry.position = due
        place = Place(position=due, time_ms=held.time_ms, stream_id=kept.stream_id)
        data = checkpoint.seal(held.registry, self._replayer.verifier.trust.mesh, place, self._identity())
        if len(data) > checkpoint.BYTES_MAX:
            _log.warning("checkpoint not made: it is too large", position=due, bytes=len(data))
            return False
        return await self._checkpoints.write(place, data)

    async def _swept(self, kept: Kept) -> Sequence[Place]:
        """Removes what is of no use, and returns what is left.

        One that was not believed goes too: its name keeps a sound one from its place.
        """
        places = await self._checkpoints.listed()
        left = []
        for place in places:
            if is_of_use(place, kept) and place not in self._replayer.unbelieved:
                left.append(place)
            else:
                await self._checkpoints.delete(place)
        self._replayer.unbelieved.clear()
        return left
