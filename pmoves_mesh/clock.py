"""The real clock: the one module that reads the time."""

from __future__ import annotations

import asyncio
import time


class SystemClock:
    """The `Clock` of this host."""

    def now_ms(self) -> int:
        """Returns unix time in milliseconds; may jump when the host's clock is set."""
        return time.time_ns() // 1_000_000  # noqa: TID251 - this is the clock that others take

    def monotonic_s(self) -> float:
        """Returns seconds since some start; never goes back."""
        return time.monotonic()  # noqa: TID251 - this is the clock that others take

    async def sleep(self, seconds: float) -> None:
        """Waits `seconds`; not at all if that is 0 or less."""
        await asyncio.sleep(max(0.0, seconds))
