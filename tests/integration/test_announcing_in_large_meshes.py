"""In a large mesh a node repeats its announcement more seldom, and announces what changed as soon as ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from http_support import NODE, Served, eventually, served

from pmoves_mesh.agent.announcer import Announcer
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.core.event import NodeAnnounced
from pmoves_mesh.core.model import Stamp
from pmoves_mesh.core.registry import NodeEntry
from pmoves_mesh.core.witness import announce_interval_s, first_share, repeat_interval_s
from pmoves_mesh.log.memory import MemoryLog

ANNOUNCE_S = 15.0
NODES = 500
BEGAN_S = 1000.0


class StandingClock(SystemClock):
    """Stands still but for what a test adds."""

    now_s = BEGAN_S

    def monotonic_s(self) -> float:
        return self.now_s


class Turns:
    """An announcer that takes a turn when it is told to."""

    def __init__(self, mesh: Served, announcer: Announcer, clock: StandingClock) -> None:
        self.mesh = mesh
        self.clock = clock
        self._announcer = announcer
        self._said = 0

    async def begin(self) -> None:
        """States the announcement, and waits until the stream has it."""
        async with asyncio.timeout(10):
            await (await self._announcer.announce())

    def add(self, count: int, spoken: Stamp, lost: Stamp) -> None:
        """Lets the registry hold other nodes."""
        nodes = self.mesh.replica.registry.nodes
        for number in range(count):
            name = f"other-{lost.revision}-{number}"
            nodes[name] = NodeEntry(name, spoken=spoken, lost=lost)

    async def takes(self, at_s: float) -> int:
        """Lets it take its turn so many seconds after it began; returns what it said then."""
        self.clock.now_s = BEGAN_S + at_s
        before = await self._count()
        await self._announcer._take_turn()

        async def settled() -> bool:
            return not self.mesh.registrations._author._outbox.depth

        await eventually(settled, "what it said is in the stream")
        return await self._count() - before

    async def _count(self) -> int:
        messages, _ = self.mesh.broker.after(0, 1000)
        return sum(one.sealed.subject == NodeAnnounced.subject for one in messages)


@pytest.fixture
async def turns(tmp_path: Path) -> AsyncIterator[Turns]:
    async with served(tmp_path) as mesh:
        config = load({"MESH_HOSTNAME": NODE, "ANNOUNCE_SEC": f"{ANNOUNCE_S:.0f}"}, tmp_path)
        clock, registrations = StandingClock(), mesh.registrations
        log = MemoryLog(mesh.client)
        announcer = Announcer(config, registrations._author, registrations, mesh.replica, log, clock)
        turns = Turns(mesh, announcer, clock)
        await turns.begin()
        yield turns


async def test_what_holds_is_repeated_only_once_its_time_has_come(turns: Turns):
    turns.add(NODES - 1, Stamp(1, 1), Stamp(0, 0))
    pause_s = repeat_interval_s(ANNOUNCE_S, NODES)
    first_s = first_share(NODE) * pause_s
    assert [await turns.takes(at_s) for at_s in (first_s - 1, first_s + 0.1)] == [0, 1]
    again_s = first_s + 0.1 + pause_s
    assert [await turns.takes(at_s) for at_s in (again_s - 1, again_s + 0.1)] == [0, 1]


async def test_what_changed_waits_for_no_repetition(turns: Turns):
    turns.add(NODES - 1, Stamp(1, 1), Stamp(0, 0))
    turns.mesh.registrations.changed.set()
    assert await turns.takes(announce_interval_s(ANNOUNCE_S, NODES)) == 1


async def test_nodes_that_are_gone_make_nobody_repeat_itself_more_seldom(turns: Turns):
    turns.add(NODES, Stamp(1, 1), Stamp(1, 1))
    assert await turns.takes(announce_interval_s(ANNOUNCE_S, 1)) == 1
