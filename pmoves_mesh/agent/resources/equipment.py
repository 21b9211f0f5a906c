"""What finds out about this host and its peers, put together."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pmoves_mesh.agent.announcer import Announcer
from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.resources.detection import Detection
from pmoves_mesh.agent.resources.inventory import Inventory
from pmoves_mesh.agent.resources.meter import Meter
from pmoves_mesh.agent.resources.survey import Survey
from pmoves_mesh.log import topology
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.replica import Replica


@dataclass(frozen=True, slots=True)
class Equipment:
    """What this host has, how loaded it is, and what it finds out about others."""

    inventory: Inventory
    meter: Meter
    survey: Survey

    def loops(self, announcer: Announcer) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """Returns what runs beside the agent; lets the announcer tell what this host has, now and later."""
        inventory = self.inventory
        announcer.resources = inventory.resources

        def changed() -> None:
            announcer.resources = inventory.resources
            announcer.restate()

        async def follow() -> None:
            await inventory.follow(changed)

        return follow, self.meter.run, self.survey.run


async def equip(ground: Ground, replica: Replica) -> Equipment:
    """Returns the equipment of a host, once it has looked at what that has."""
    config, clock = ground.config, ground.clock
    detection = Detection(config.host_root, config.data_dir)
    inventory = Inventory(detection.resources, clock)
    await inventory.begin()
    meter = Meter(detection.load, clock, ttl_s=config.lease_ttl_s)
    leases = NatsBucket(ground.connection, topology.LEASES)
    return Equipment(inventory, meter, Survey(config.node, meter, replica, leases, clock))
