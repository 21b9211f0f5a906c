"""Whether and how this node registers containers, by its settings."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry

from pmoves_mesh.agent.containers.claims import CLAIMS_FILE, Claims
from pmoves_mesh.agent.containers.engine import Engine, sockets_of
from pmoves_mesh.agent.containers.follower import Follower
from pmoves_mesh.agent.containers.keeper import Keeper
from pmoves_mesh.agent.containers.tally import Tally
from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.registrations import Registrations


@dataclass(frozen=True, slots=True)
class Containers:
    """What registers the containers of this host.

    Attributes:
        run: follows the engine for ever; where none is to be followed, gives up what an earlier run
            registered, and ends.
        warnings: returns what an operator should know of it.
    """

    run: Callable[[], Coroutine[Any, Any, None]]
    warnings: Callable[[], list[str]]


async def containers_for(
    ground: Ground, registrations: Registrations, metrics: CollectorRegistry, stack: AsyncExitStack
) -> Containers:
    """Returns what registers the containers of a node, knowing what an earlier run registered.

    Args:
        ground: what the agent stands on.
        registrations: the instances, as an earlier run left them.
        metrics: what is scraped.
        stack: ends what has to be ended.

    Raises:
        StoreError: if it cannot be read which registrations are those of containers.
    """
    config = ground.config
    tally = Tally(metrics)
    claims = Claims(config.data_dir / CLAIMS_FILE)
    await claims.load(held.record for held in registrations.held.values())
    keeper = Keeper(config.node, config.mode, registrations, claims, tally)
    if config.containers == "off":
        return Containers(keeper.release_all, tally.warnings)
    engine = await stack.enter_async_context(Engine(sockets_of(config.containers)))
    return Containers(Follower(engine, keeper, tally, ground.clock).run, tally.warnings)
