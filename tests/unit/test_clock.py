"""The real clock: the right unit, and no way back."""

from __future__ import annotations

import time

from pmoves_mesh.clock import SystemClock


def test_unix_time_is_in_milliseconds():
    before_ms = time.time_ns() // 1_000_000  # noqa: TID251 - the clock is compared with the system's
    now_ms = SystemClock().now_ms()
    assert before_ms <= now_ms <= before_ms + 60_000


async def test_sleeping_moves_the_monotonic_time_forward_by_as_much():
    clock = SystemClock()
    begin_s = clock.monotonic_s()
    await clock.sleep(0.02)
    assert 0.019 <= clock.monotonic_s() - begin_s < 10


async def test_sleeping_for_less_than_nothing_returns_at_once():
    clock = SystemClock()
    begin_s = clock.monotonic_s()
    await clock.sleep(-60)
    assert clock.monotonic_s() - begin_s < 10
