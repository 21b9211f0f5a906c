"""The meter: how much of this host is in use, for its lease to carry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from pmoves_mesh.agent.resources.aside import Aside
from pmoves_mesh.core.load import Load
from pmoves_mesh.ports import Clock

_log: Final = structlog.get_logger(__name__)

_READINGS_PER_TTL: Final = 3
_PATIENCE_S: Final = 5.0


class Meter:
    """Reads the load as often as the lease is written.

    Attributes:
        ttl_s: seconds for which a lease lasts.
    """

    def __init__(self, read: Callable[[], Load | None], clock: Clock, *, ttl_s: float) -> None:
        """Takes what reads the load, which may block, and how long a lease lasts in seconds."""
        self._aside = Aside(read, "load")
        self._hangs = False
        self._clock = clock
        self.ttl_s: Final = ttl_s
        self._load: Load | None = None
        self._read_s = 0.0

    @property
    def load(self) -> Load | None:
        """The load, unless it could not be read for as long as a lease lasts."""
        return None if self.age_s > self.ttl_s else self._load

    @property
    def age_s(self) -> float:
        """Seconds since the load was read."""
        return self._clock.monotonic_s() - self._read_s

    async def run(self) -> None:
        """Reads for ever."""
        while True:
            try:
                self._load = await self._aside.run(_PATIENCE_S)
            except TimeoutError:
                if not self._hangs:
                    _log.warning("this host's load cannot be read; a driver hangs")
                self._hangs = True
            else:
                self._read_s, self._hangs = self._clock.monotonic_s(), False
            await self._clock.sleep(self.ttl_s / _READINGS_PER_TTL)
