"""Whether this node answers DNS, by its settings. What speaks DNS is imported only where it does."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pmoves_mesh.config import Config
from pmoves_mesh.ports import Clock
from pmoves_mesh.replica import Replica


@dataclass(frozen=True, slots=True)
class Naming:
    """What answers DNS; as it is made by itself, nothing does.

    Attributes:
        loops: what runs as long as the agent.
        warnings: returns what an operator should know of it.
    """

    loops: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    warnings: Callable[[], list[str]] = list


def naming_for(
    config: Config, replica: Replica, clock: Clock, observe: Callable[[str, float], None]
) -> Naming:
    """Returns what answers DNS on a node.

    Args:
        config: where it listens, if it does.
        replica: the registry.
        clock: the time.
        observe: takes note of answers, see `DnsServer`.
    """
    if not config.dns_port:
        return Naming()
    from pmoves_mesh.views.dns.server import DnsServer  # noqa: PLC0415 - see above

    server = DnsServer(config, replica, clock, observe)
    return Naming((server.run,), server.warnings)
