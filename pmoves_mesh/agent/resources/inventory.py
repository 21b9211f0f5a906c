"""The inventory: what this host has, looked at again and again, and told when it has changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from pmoves_mesh.agent.resources.aside import Aside
from pmoves_mesh.core.resources import Resources
from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

_FIRST_S: Final = 3.0
_PATIENCE_S: Final = 20.0
_EVERY_S: Final = 60.0
_AGAIN_S: Final = 5.0


class Inventory:
    """Knows what this host has.

    Attributes:
        resources: what it has; nothing until `begin`, or for longer where a driver hangs.
    """

    def __init__(self, find: Callable[[], Resources], clock: Clock) -> None:
        """Takes what finds the resources, which may block."""
        self.resources = Resources()
        self._aside = Aside(find, "resources")
        self._clock = clock

    async def begin(self) -> None:
        """Looks for the first time, for no longer than 3 s."""
        try:
            self.resources = await self._aside.run(_FIRST_S)
        except TimeoutError:
            _log.warning("this host's resources are not known yet; a driver hangs")

    async def follow(self, changed: Callable[[], None]) -> None:
        """Looks every minute, for ever, and calls `changed` after each change.

        What is another than before must be found twice, so that a driver's moment of weakness is no
        change, and what follows from it no news to the mesh.
        """
        doubted: Resources | None = None
        while True:
            await self._clock.sleep(_EVERY_S if doubted is None else _AGAIN_S)
            try:
                found = await self._aside.run(_PATIENCE_S)
            except TimeoutError:
                continue  # and so until the driver comes back, or the agent is started again
            if found == self.resources:
                doubted = None
            elif found != doubted:
                doubted = found
            else:
                self.resources, doubted = found, None
                _log.info("this host's resources changed", gpus=found.gpu_count, memory_gb=found.memory_gb)
                changed()
