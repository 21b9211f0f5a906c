"""When work is done that changes call for: soon, together, and a little at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.views.http.pace import Pace


class SteppedClock(SystemClock):
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s


class Work:
    """Rounds of pieces, each of which takes a while by the clock."""

    def __init__(self, pieces: int = 1, piece_s: float = 0.0, rest: float = 0.0) -> None:
        self.clock = SteppedClock()
        self.rounds = 0
        self.done = 0
        self.pace = Pace(self.round, self.clock, rest=rest)
        self._pieces = pieces
        self._piece_s = piece_s

    def round(self) -> Iterator[None]:
        self.rounds += 1
        for _ in range(self._pieces):
            self.clock.now_s += self._piece_s
            self.done += 1
            yield

    async def until(self, done: int) -> None:
        async with asyncio.timeout(10):
            while self.done < done:
                await asyncio.sleep(0)


async def test_one_round_does_for_all_who_asked_before_it_began():
    work = Work()
    for _ in range(10):
        work.pace.plan()
    assert work.done == 0
    await work.until(1)
    assert work.rounds == 1


async def test_whoever_asks_during_a_round_gets_another():
    work = Work(pieces=3, piece_s=1.0)
    work.pace.plan()
    await work.until(1)
    work.pace.plan()
    work.pace.plan()
    await work.until(6)
    assert work.rounds == 2


async def test_a_long_round_leaves_the_loop_to_others_in_between():
    work = Work(pieces=20, piece_s=0.003)
    turns = 0
    work.pace.plan()
    async with asyncio.timeout(10):
        while work.done < 20:
            turns += work.done > 0
            await asyncio.sleep(0)
    assert turns >= 9


async def test_it_rests_after_a_round_as_long_as_it_was_told_to():
    work = Work(piece_s=0.05, rest=1.0)
    work.pace.plan()
    await work.until(1)
    loop = asyncio.get_running_loop()
    begin_s = loop.time()
    work.pace.plan()
    await work.until(2)
    assert loop.time() - begin_s >= 0.04


async def test_a_round_that_fails_is_reported_and_does_not_keep_the_next_from_being_done():
    work = Work()
    failures = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["exception"]))

    def failing() -> Iterator[None]:
        work.pace.plan()
        yield from work.round()
        if work.rounds == 1:
            raise RuntimeError("broken")

    work.pace = Pace(failing, work.clock, rest=0.0)
    work.pace.plan()
    await work.until(2)
    assert [str(one) for one in failures] == ["broken"]
    work.pace.stop()


async def test_what_is_planned_is_dropped_when_it_stops():
    work = Work()
    work.pace.plan()
    work.pace.stop()
    other = Work()
    other.pace.plan()
    await other.until(1)
    assert work.done == 0
