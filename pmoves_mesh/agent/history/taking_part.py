"""What tells of the past on this node: the desk, and who sees to it that there are checkpoints."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, Final

import structlog

from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.history.desk import HistoryDesk
from pmoves_mesh.agent.history.frames import Setup
from pmoves_mesh.agent.history.replay import Checkpoints
from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.agent.trust.trusted import identity_files
from pmoves_mesh.config import Config
from pmoves_mesh.core.history import KeepUpTo
from pmoves_mesh.core.milestones import STEP
from pmoves_mesh.errors import LogError
from pmoves_mesh.log.checkpoints import NatsCheckpoints
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica

Loop = Callable[[], Coroutine[Any, Any, None]]

_FIRST_S: Final = 60.0
_LOOK_S: Final = 10.0
_SPREAD_S: Final = 10.0
"""How far apart the nodes of a mesh look whether another one was first; a tenth of a second for each node."""

_log: Final = structlog.get_logger(__name__)
_random: Final = secrets.SystemRandom()


class Keeper:
    """Has checkpoints made as the stream goes on, where no other node was first."""

    def __init__(self, desk: HistoryDesk, checkpoints: Checkpoints, replica: Replica, clock: Clock) -> None:
        self._desk = desk
        self._checkpoints = checkpoints
        self._replica = replica
        self._clock = clock
        self._known: tuple[str, int] | None = None

    async def run(self) -> None:
        """Looks for ever, seldom."""
        await self._clock.sleep(_FIRST_S)
        while True:
            replica = self._replica
            here = (replica.stream_id, replica.position // STEP)
            if replica.is_current and here != self._known:
                nodes = len(replica.registry.nodes)
                await self._clock.sleep(_random.uniform(0.0, max(_SPREAD_S, nodes / 10)))
                try:
                    await self._see_to(here)
                    self._known = here
                except LogError as error:
                    _log.info("no checkpoint made", detail=str(error))
            await self._clock.sleep(_LOOK_S)

    async def _see_to(self, here: tuple[str, int]) -> None:
        stream_id, step = here
        there = [one for one in await self._checkpoints.listed() if one.stream_id == stream_id]
        if not any(one.position >= step * STEP for one in there):
            await self._desk.ask(KeepUpTo(position=self._replica.position))


def setup_of(config: Config) -> Setup:
    """Returns what the process that tells of the past must know of this node."""
    certificate, key = identity_files(config)
    # Not the name of the agent's own connection, whose end tells the mesh that the node is gone.
    nats = replace(nats_settings(config), name=f"pmoves-mesh-history {config.node}")
    return Setup(
        mesh=config.mesh,
        node=config.node,
        nats=nats,
        tls_dir=config.tls_dir,
        certificate=certificate,
        key=key,
        accept_unsigned=config.accept_unsigned,
    )


def history_of(
    ground: Ground,
    replica: Replica,
    readers: dict[str, Callable[[], int]],
    once_joined: Callable[[Loop], Loop],
) -> tuple[HistoryDesk, tuple[Loop, Loop]]:
    """Returns where the past is asked for, and what runs for it: the desk's own loop, and the keeper's.

    Args:
        ground: what this node stands on.
        replica: what it knows of the present.
        readers: where those are counted that follow something.
        once_joined: lets a loop begin only once this node has joined the mesh.
    """
    desk = HistoryDesk(setup_of(ground.config))
    readers["followers"] = lambda: desk.following
    keeper = Keeper(desk, NatsCheckpoints(ground.connection), replica, ground.clock)
    return desk, (desk.run, once_joined(keeper.run))
