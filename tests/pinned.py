"""A clock that stands at a date at which the certificates of tests hold."""

from __future__ import annotations

from builders import NOW_MS

from pmoves_mesh.clock import SystemClock


class Pinned(SystemClock):
    """The host's clock, but for the date."""

    def now_ms(self) -> int:
        return NOW_MS


PINNED = Pinned()
