"""How often systemd hears of the agent: soon enough that it never takes one that turns for one that hangs."""

from __future__ import annotations

import pytest

from pmoves_mesh.agent.notify import Notifier

UNHEARD = "/nowhere/notify.sock"


class Ended(Exception):
    """The first sleep: all that is of interest here."""


class Sleeper:
    """A clock whose first sleep ends the test."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    def now_ms(self) -> int:
        return 0

    def monotonic_s(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        self.slept_s = seconds
        raise Ended


@pytest.mark.parametrize(
    ("watchdog", "pause_s"), [("30000000", 5.0), ("6000000", 2.0), ("", 5.0), ("0", 5.0), ("soon", 5.0)]
)
async def test_the_watchdog_hears_of_the_loop_three_times_in_its_time(watchdog: str, pause_s: float):
    clock = Sleeper()
    environment = {"NOTIFY_SOCKET": UNHEARD, "WATCHDOG_USEC": watchdog}
    with pytest.raises(Ended):
        await Notifier.of(environment, lambda: "well", clock).run()
    assert clock.slept_s == pause_s


async def test_a_watchdog_that_is_meant_for_another_process_is_not_heeded():
    clock = Sleeper()
    environment = {"NOTIFY_SOCKET": UNHEARD, "WATCHDOG_USEC": "600000", "WATCHDOG_PID": "1"}
    with pytest.raises(Ended):
        await Notifier.of(environment, lambda: "well", clock).run()
    assert clock.slept_s == 5.0


async def test_without_systemd_nobody_is_told_anything():
    await Notifier.of({}, lambda: "well", Sleeper()).run()
