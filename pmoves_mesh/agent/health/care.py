"""What looks after this node's instances: their checks, their own reports, and their maintenance."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from pmoves_mesh.agent.containers.engine import sockets_of
from pmoves_mesh.agent.ground import Ground
from pmoves_mesh.agent.health.checks import checks_of
from pmoves_mesh.agent.health.maintenance import MAINTENANCE_FILE, Maintenance
from pmoves_mesh.agent.health.prober import Prober
from pmoves_mesh.agent.health.removal import Removal
from pmoves_mesh.agent.health.ttl_check import TtlWatch
from pmoves_mesh.agent.registrations import Registrations
from pmoves_mesh.replica import Replica


@dataclass(frozen=True, slots=True)
class Care:
    """The parts that look after instances; their loops run as long as the agent."""

    prober: Prober
    reports: TtlWatch
    removal: Removal
    maintenance: Maintenance

    @property
    def loops(self) -> tuple[Callable[[], Coroutine[Any, Any, None]], ...]:
        """What runs side by side."""
        return self.prober.run, self.reports.run, self.removal.run, self.maintenance.run

    def warnings(self) -> list[str]:
        """Returns what an operator should know of it."""
        starved = self.prober.starved
        return [f"failed probes do not count now: {starved}"] if starved else []


async def care_for(
    ground: Ground,
    registrations: Registrations,
    replica: Replica,
    names: frozenset[str],
    stack: AsyncExitStack,
    observe: Callable[[str, bool | None, float], None],
) -> Care:
    """Returns what looks after the instances of a node, with their maintenance as it was left.

    Args:
        ground: what the agent stands on.
        registrations: the instances, as an earlier run left them.
        replica: knows the other nodes.
        names: this node's own names and addresses.
        stack: ends what has to be ended.
        observe: takes note of probes, see `Prober`.

    Raises:
        StoreError: if the marks of maintenance cannot be read.
    """
    config, clock = ground.config, ground.clock
    checks = checks_of(
        names,
        lambda: ground.trust.roots,
        command_checks=config.command_checks,
        engine_sockets=sockets_of(config.containers),
    )
    probe = await stack.enter_async_context(checks)
    registrations.command_checks = config.command_checks
    maintenance = Maintenance(config.data_dir / MAINTENANCE_FILE, config.node, registrations, replica, clock)
    await maintenance.load()
    prober = Prober(registrations, clock, probe, seed=config.node, observe=observe)
    reports = TtlWatch(registrations, clock)
    return Care(prober, reports, Removal(registrations, reports.heard_s, clock), maintenance)
