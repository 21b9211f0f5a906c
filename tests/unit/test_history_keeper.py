"""The keeper has checkpoints made as the stream goes on, unless another node was first."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from memory_past import STREAM, MemoryCheckpoints
from pinned import Pinned

from pmoves_mesh.agent.history.taking_part import Keeper
from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.core.history import KeepUpTo, Told
from pmoves_mesh.core.milestones import STEP
from pmoves_mesh.errors import LogUnavailable


class Hasty(Pinned):
    """A clock whose waits are over at once."""

    async def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        await asyncio.sleep(0)


class Desk:
    """Takes questions, and fails as often as it is told to."""

    def __init__(self, failures: int = 0) -> None:
        self.asked: list[int] = []
        self.failures = failures

    async def ask(self, question: KeepUpTo) -> Told:
        if self.failures:
            self.failures -= 1
            raise LogUnavailable("NATS is away")
        self.asked.append(question.position)
        return Told(body=b"{}", position=question.position)


class Kept:
    """A keeper that runs, and what it stands on."""

    def __init__(self, position: int, desk: Desk | None = None) -> None:
        self.desk = desk or Desk()
        self.checkpoints = MemoryCheckpoints()
        self.replica = SimpleNamespace(
            stream_id=STREAM, position=position, is_current=True, registry=SimpleNamespace(nodes={})
        )

    async def turns(self, count: int = 200) -> list[int]:
        parts: Any = (self.desk, self.checkpoints, self.replica, Hasty())
        running = asyncio.create_task(Keeper(*parts).run())
        for _ in range(count):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait((running,))
        return self.desk.asked


def place(position: int, stream_id: str = STREAM) -> Place:
    return Place(position=position, time_ms=1, stream_id=stream_id)


async def test_it_asks_once_for_what_is_due():
    assert await Kept(STEP + 7).turns() == [STEP + 7]


async def test_a_young_stream_gets_its_first_one():
    assert await Kept(7).turns() == [7]


async def test_it_leaves_to_others_what_they_did():
    kept = Kept(STEP + 7)
    kept.checkpoints.held[place(STEP)] = b"made by another node"
    assert await kept.turns() == []


async def test_what_is_of_another_stream_does_not_count():
    kept = Kept(STEP + 7)
    kept.checkpoints.held[place(STEP, "another")] = b"made before"
    assert await kept.turns() == [STEP + 7]


async def test_it_tries_again_after_an_outage():
    assert await Kept(7, Desk(failures=3)).turns() == [7]


async def test_a_replica_that_is_behind_is_waited_for():
    kept = Kept(7)
    kept.replica.is_current = False
    assert await kept.turns() == []
