"""Virtual time: an event loop whose waits take no time at all, and clocks that go wrong.

The loop never blocks. When nothing can run it jumps to the next timer, so that minutes of
timeouts and pauses pass in milliseconds, in the same order each time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from builders import NOW_MS

T = TypeVar("T")

_ROUNDS_MAX: Final = 100_000


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nobody: it moves the time on by what it was to wait. There are no files to look at."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits, and no timer is left that could end it")
        self.now_s += timeout
        self._rounds = 0 if timeout else self._rounds + 1
        if self._rounds > _ROUNDS_MAX:
            raise RuntimeError("work goes on and on, and no time passes")
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time, from 0."""

    def __init__(self) -> None:
        self._jumping: Final = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine in virtual time of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


async def ended(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Cancels tasks, in their order, and waits until they have ended.

    An error that one ended with is raised again.
    """
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


class SimClock:
    """The clock of one host; implements `ports.Clock`.

    Attributes:
        offset_ms: how far its unix time is from the true one; a change is a jump.
        drift: seconds that its unix time gains in each second.
    """

    def __init__(self) -> None:
        self.offset_ms = 0
        self.drift = 0.0

    def now_ms(self) -> int:
        return NOW_MS + self.offset_ms + int(self.monotonic_s() * (1 + self.drift) * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
