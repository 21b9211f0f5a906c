"""Virtual time: an event loop whose waits take no time at all, and clocks that go wrong.

The loop never blocks. When nothing can run it jumps to the next timer, so that minutes of
timeouts and pauses pass in milliseconds, in the same order each time.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextvars import Context
from typing import Any, Final, TypeVar

from builders import NOW_MS

T = TypeVar("T")

START_MS: Final = NOW_MS + 15 * 24 * 60 * 60 * 1000
"""When a simulation begins, unix milliseconds: certificates hold for weeks before and after it."""

_ROUNDS_MAX: Final = 20_000
_STEPS_MAX: Final = 1_000_000


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop in virtual time, from 0.

    It does what `asyncio` promises and nothing besides: no files, no threads, no debugging. Most of
    what a simulation costs is spent here, so the steps of the base class are taken together.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._rounds = 0
        self._steps = 0
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_made = 0
        self._soon = self._ready.append

    def time(self) -> float:
        return self._now_s

    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        self._soon(handle)
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leaves it where it is: it is passed over when its time comes."""

    def _write_to_self(self) -> None:
        """Wakes nobody: nothing comes from another thread."""

    def run_in_executor(
        self, executor: Executor | None, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Does at once what is for no thread in particular."""
        if executor is not None:
            return super().run_in_executor(executor, func, *args)
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the caller's
            future.set_exception(error)
        return future

    def _run_once(self) -> None:
        timers, ready = self._timers, self._ready
        if not ready:
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            if not timers:
                raise RuntimeError("everybody waits, and no timer is left that could end it")
            if timers[0][0] > self._now_s:
                self._now_s, self._rounds = timers[0][0], 0
        self._rounds += 1
        if self._rounds > _ROUNDS_MAX:
            raise RuntimeError("work goes on and on, and no time passes")
        while timers and timers[0][0] <= self._now_s:
            ready.append(heapq.heappop(timers)[2])
        self._steps += len(ready)
        if self._steps > _STEPS_MAX:
            raise RuntimeError(f"more than {_STEPS_MAX} steps, and no end")
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle.cancelled():
                handle._run()


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
        return START_MS + self.offset_ms + int(self.monotonic_s() * (1 + self.drift) * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
