"""The loops around detection: what has changed is told once it is sure, and what hangs hangs alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs

from pmoves_mesh.agent.resources.aside import Aside
from pmoves_mesh.agent.resources.inventory import Inventory
from pmoves_mesh.agent.resources.meter import Meter
from pmoves_mesh.agent.resources.readings import AT_ONCE, Readings, Terms
from pmoves_mesh.core.load import Load
from pmoves_mesh.core.resources import Resources
from pmoves_mesh.errors import LogUnavailable

SMALL, LARGE = Resources(cpu_cores=4), Resources(cpu_cores=8)
TERMS = Terms(fresh_s=3.0, kept_s=10.0, wait_s=5.0)


@dataclass
class SteppedClock:
    """A clock that goes on when it is told to; sleepers wait for that."""

    now_s: float = 0.0
    slept: list[float] = field(default_factory=list)
    _step: asyncio.Event = field(default_factory=asyncio.Event)

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self._step.clear()
            await self._step.wait()

    async def sleepers(self, count: int) -> None:
        """Waits until somebody has gone to sleep so often."""
        async with asyncio.timeout(10):
            while len(self.slept) < count:
                await asyncio.sleep(0.001)

    def go_on(self) -> None:
        """Lets the latest sleep end."""
        self.now_s += self.slept[-1]
        self._step.set()


async def follow_through(
    found: Sequence[Resources | None],
) -> tuple[Inventory, list[Resources], SteppedClock]:
    """Lets an inventory find this, one after the other; returns what was told. None is a failure."""
    clock, told, answers = SteppedClock(), [], iter(found)

    def find() -> Resources:
        answer = next(answers)
        if answer is None:
            raise TimeoutError
        return answer

    inventory = Inventory(find, clock)
    await inventory.begin()
    following = asyncio.create_task(inventory.follow(lambda: told.append(inventory.resources)))
    for turn in range(1, len(found)):
        await clock.sleepers(turn)
        clock.go_on()
    await clock.sleepers(len(found))
    following.cancel()
    return inventory, told, clock


async def test_what_a_host_has_is_told_when_it_has_changed_and_was_found_twice():
    inventory, told, clock = await follow_through([SMALL, SMALL, LARGE, LARGE, LARGE])
    assert told == [LARGE]
    assert inventory.resources == LARGE
    assert clock.slept[:3] == [60.0, 60.0, 5.0]


@pytest.mark.parametrize(
    "found", [[SMALL, LARGE, SMALL, SMALL], [SMALL, LARGE, SMALL, LARGE, SMALL], [SMALL, None, SMALL]]
)
async def test_what_comes_and_goes_is_no_change(found: list[Resources | None]):
    inventory, told, _ = await follow_through(found)
    assert told == []
    assert inventory.resources == SMALL


async def test_work_that_hangs_is_given_up_and_never_begun_twice():
    begun, free = [], threading.Event()

    def work() -> int:
        begun.append(threading.current_thread())
        free.wait(30)
        return len(begun)

    aside = Aside(work, "hanging")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await aside.run(0.05)
    assert [thread.daemon for thread in begun] == [True]
    free.set()
    begun[0].join()
    assert await aside.run(5) == 1
    assert await aside.run(5) == 2


def test_a_program_ends_though_its_work_hangs():
    program = """
import asyncio, time
from pmoves_mesh.agent.resources.aside import Aside

async def main():
    try:
        await Aside(lambda: time.sleep(60), "hanging").run(0.05)
    except TimeoutError:
        print("given up")

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "given up\n", "")


async def test_an_error_of_the_work_is_raised_and_the_next_call_begins_anew():
    answers = iter([OSError("gone"), None])

    def work() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "there"

    aside = Aside(work, "failing")
    with pytest.raises(OSError, match="gone"):
        await aside.run(5)
    assert await aside.run(5) == "there"


async def test_the_loop_goes_on_while_a_driver_hangs():
    free = threading.Event()
    inventory = Inventory(lambda: (free.wait(30), SMALL)[1], SteppedClock())
    with capture_logs() as lines:
        beginning = asyncio.create_task(inventory.begin())
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not beginning.done()
        free.set()
        await beginning
    assert not lines
    assert inventory.resources == SMALL


async def test_the_load_is_read_three_times_a_lease_and_forgotten_when_it_is_older_than_one():
    clock, answers = SteppedClock(), iter([Load(cpu=0.1, memory=0.2), Load(cpu=0.3, memory=0.4)])
    meter = Meter(lambda: next(answers), clock, ttl_s=9)
    assert meter.load is None
    running = asyncio.create_task(meter.run())
    await clock.sleepers(1)
    assert meter.load == Load(cpu=0.1, memory=0.2)
    clock.go_on()
    await clock.sleepers(2)
    assert meter.load == Load(cpu=0.3, memory=0.4)
    assert clock.slept == [3, 3]
    running.cancel()
    clock.now_s += 9.1
    assert meter.load is None


async def test_a_driver_that_hangs_costs_the_start_little_and_the_load_until_it_comes_back(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("pmoves_mesh.agent.resources.inventory._FIRST_S", 0.05)
    monkeypatch.setattr("pmoves_mesh.agent.resources.meter._PATIENCE_S", 0.05)
    free, clock = threading.Event(), SteppedClock()
    inventory = Inventory(lambda: (free.wait(30), SMALL)[1], clock)
    meter = Meter(lambda: (free.wait(30), Load(cpu=0.1, memory=0.2))[1], clock, ttl_s=9)
    with capture_logs() as lines:
        await inventory.begin()
        running = asyncio.create_task(meter.run())
        await clock.sleepers(1)
        clock.go_on()
        await clock.sleepers(2)
    assert inventory.resources == Resources()
    assert meter.load is None
    assert ["hangs" in line["event"] for line in lines] == [True, True]
    free.set()
    monkeypatch.undo()
    clock.go_on()
    await clock.sleepers(3)
    assert meter.load == Load(cpu=0.1, memory=0.2)
    running.cancel()


@dataclass
class Book:
    """Where readings come from: what there is, and what was asked for."""

    values: dict[str, int]
    asked: list[list[str]] = field(default_factory=list)
    away: bool = False

    async def read(self, nodes: Sequence[str]) -> Mapping[str, int]:
        self.asked.append(list(nodes))
        await asyncio.sleep(0)
        if self.away:
            raise LogUnavailable("away")
        return {node: self.values[node] for node in nodes if node in self.values}


async def with_readings(book: Book, use: Callable[[Readings[int], SteppedClock], object]) -> None:
    clock = SteppedClock()
    readings = Readings(book.read, clock, TERMS)
    running = asyncio.create_task(readings.run())
    try:
        await use(readings, clock)  # type: ignore[misc]
    finally:
        running.cancel()


async def test_nothing_is_read_until_somebody_asks_and_then_once_however_many_ask():
    book = Book({"alpha": 1, "beta": 2})

    async def use(readings: Readings[int], _: SteppedClock) -> None:
        await asyncio.sleep(0.01)
        assert not book.asked
        answers = await asyncio.gather(*(readings.of(["alpha", "beta", "absent"]) for _ in range(50)))
        assert all(
            {name: one.value for name, one in found.items()} == {"alpha": 1, "beta": 2} for found in answers
        )
        assert book.asked == [["alpha", "beta", "absent"]]

    await with_readings(book, use)


async def test_a_reading_is_good_for_a_while_then_renewed_behind_the_answer_then_waited_for():
    book = Book({"alpha": 1})

    async def use(readings: Readings[int], clock: SteppedClock) -> None:
        assert (await readings.of(["alpha"]))["alpha"] == (1, 0.0)
        book.values["alpha"] = 2
        clock.now_s += 2.0
        assert (await readings.of(["alpha"]))["alpha"] == (1, 2.0)
        for _ in range(10):
            await asyncio.sleep(0)  # whatever was to be read would be read by now
        assert len(book.asked) == 1
        clock.now_s += 2.0
        assert (await readings.of(["alpha"]))["alpha"] == (1, 4.0)
        async with asyncio.timeout(5):
            while (await readings.of(["alpha"]))["alpha"].value != 2:
                await asyncio.sleep(0)
        assert len(book.asked) == 2
        book.values["alpha"] = 3
        clock.now_s += 11.0
        assert (await readings.of(["alpha"]))["alpha"] == (3, 0.0)

    await with_readings(book, use)


async def test_what_cannot_be_read_costs_no_asker_its_patience_and_keeps_its_age():
    book = Book({"alpha": 1})

    async def use(readings: Readings[int], clock: SteppedClock) -> None:
        await readings.of(["alpha"])
        book.away = True
        clock.now_s += 20.0
        async with asyncio.timeout(2):
            assert (await readings.of(["alpha"]))["alpha"] == (1, 20.0)
            assert (await readings.of(["alpha", "beta"])).keys() == {"alpha"}

    await with_readings(book, use)


async def test_many_nodes_are_read_a_few_at_a_time():
    book = Book({f"node-{number}": number for number in range(3 * AT_ONCE + 1)})

    async def use(readings: Readings[int], _: SteppedClock) -> None:
        found = await readings.of(list(book.values))
        assert len(found) == len(book.values)
        assert [len(some) for some in book.asked] == [AT_ONCE] * 3 + [1]

    await with_readings(book, use)


async def test_what_was_read_first_is_forgotten_first(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pmoves_mesh.agent.resources.readings._KEPT_MAX", 2)
    book = Book({"alpha": 1, "beta": 2, "gamma": 3})

    async def use(readings: Readings[int], _: SteppedClock) -> None:
        for node in book.values:
            await readings.of([node])
        assert (await readings.of(["beta", "gamma"])).keys() == {"beta", "gamma"}
        assert len(book.asked) == 3
        await readings.of(["alpha"])
        assert book.asked[-1] == ["alpha"]

    await with_readings(book, use)


async def test_an_asker_is_answered_even_if_nothing_is_ever_read():
    readings = Readings(Book({}).read, SteppedClock(), Terms(fresh_s=1, kept_s=1, wait_s=0.05))
    assert await readings.of(["alpha"]) == {}
