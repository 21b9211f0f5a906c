"""Work that changes call for: soon, once for what changes together, and never long at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final

from pmoves_mesh.ports import Clock

_GATHERED_S: Final = 0.005
_SLICE_S: Final = 0.005


class Pace:
    """Does a piece of work after another, a few milliseconds at a time, and rests in between.

    The first change after a while is worked on within 5 ms. When changes do not end, the work leaves
    the loop the better part of its time, and one round of it does for all that changed meanwhile.
    """

    def __init__(self, work: Callable[[], Iterator[None]], clock: Clock, *, rest: float) -> None:
        """Takes the work.

        Args:
            work: begins a round, and yields after each piece of it. Whatever it raises ends the round and
                reaches the loop, and what changes next begins another.
            clock: the time.
            rest: how long it rests after a round, as a multiple of how long that took.
        """
        self._work = work
        self._clock = clock
        self._rest = rest
        self._rested_s = 0.0
        self._working = False
        self._again = False
        self._timer: asyncio.TimerHandle | None = None

    def plan(self) -> None:
        """Asks for a round, unless one is planned already."""
        if self._working:
            self._again = True
        elif self._timer is None:
            wait_s = max(_GATHERED_S, self._rested_s - self._clock.monotonic_s())
            self._timer = asyncio.get_running_loop().call_later(wait_s, self._begin)

    def stop(self) -> None:
        """Drops what is planned."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._working, self._again = None, False, False

    def _begin(self) -> None:
        self._working, self._again = True, False
        self._rested_s = self._clock.monotonic_s()
        self._go_on(self._work())

    def _go_on(self, pieces: Iterator[None]) -> None:
        began_s = self._clock.monotonic_s()
        self._timer = None
        try:
            for _ in pieces:
                if self._clock.monotonic_s() - began_s >= _SLICE_S:
                    self._timer = asyncio.get_running_loop().call_later(0, self._go_on, pieces)
                    break
        finally:
            self._working = self._timer is not None
            self._rested_s += (1 + self._rest) * (self._clock.monotonic_s() - began_s)
            if self._again and not self._working:
                self.plan()
