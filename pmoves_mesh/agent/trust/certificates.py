"""The certificates on this host's disk, looked at now and then, so that a status need not read files."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from pmoves_mesh.config import Config
from pmoves_mesh.core.query import iso
from pmoves_mesh.pki.inventory import CertificateFact, inventory, severity
from pmoves_mesh.ports import Clock

_LOOK_EVERY_S: Final = 30.0


class CertificateWatch:
    """Knows which certificates this host keeps, and which of them end soon.

    Attributes:
        facts: what was found at the latest look.
    """

    def __init__(self, config: Config, clock: Clock) -> None:
        self.facts: Sequence[CertificateFact] = ()
        self._config = config
        self._clock = clock

    async def run(self) -> None:
        """Looks for ever."""
        while True:
            await self.look()
            await self._clock.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Looks now."""
        self.facts = await asyncio.to_thread(inventory, self._config.tls_dir, self._config.data_dir)

    def warnings(self) -> list[str]:
        """Returns a line for each certificate that should have been renewed by now, or has ended."""
        now_ms = self._clock.now_ms()
        return [
            f"the certificate of {fact.kind} {fact.name} ({fact.path}) {_ending(fact, now_ms)}"
            for fact in self.facts
            if severity(fact, now_ms) != "ok"
        ]


def _ending(fact: CertificateFact, now_ms: int) -> str:
    verb = "ended" if fact.not_after_ms <= now_ms else "ends"
    return f"{verb} at {iso(fact.not_after_ms)}"
