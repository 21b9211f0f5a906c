"""The outbox: what was sent leaves its file, and nothing waits for that."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from builders import Authority, registered

from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core import envelope
from pmoves_mesh.log.memory import MemoryBroker, MemoryClient, MemoryLog
from pmoves_mesh.store.records import Commit, NodeState, OutboxEntry, Outgoing
from pmoves_mesh.store.store import Store

ALPHA = Authority().identity("alpha")
DEADLINE_S = 10.0


class Desk:
    """An outbox on a store and a log, and whoever puts events into it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        clock = SystemClock()
        self.log = MemoryLog(MemoryClient(MemoryBroker(clock), random.Random(1)))
        self.outbox = Outbox(store, self.log, clock)

    async def put(self, revision: int) -> asyncio.Future[int]:
        outgoing = Outgoing(sealed=envelope.seal(registered(revision), ALPHA))
        state = NodeState(incarnation=1, revision=revision, head="")
        (seq,) = await self.store.commit(Commit(state=state, appends=[outgoing]))
        return self.outbox.put(OutboxEntry(seq=seq, sealed=outgoing.sealed, ttl_s=None))

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(loop()) for loop in (self.outbox.run, self.outbox.forget_sent)]
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with Store.opened(tmp_path) as store:
        yield Desk(store)


async def test_what_was_sent_leaves_the_file(desk: Desk):
    async with desk.sending():
        assert [await (await desk.put(revision)) for revision in (1, 2)] == [1, 2]
        while desk.store.outbox_depth:
            await asyncio.sleep(0)
    assert await desk.store.outbox(10) == []


async def test_what_is_to_be_sent_does_not_wait_until_what_was_sent_left_the_file(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    slow, asked = asyncio.Event(), asyncio.Event()
    sent = desk.store.sent

    async def slowly(seqs: Sequence[int]) -> None:
        asked.set()
        await slow.wait()
        await sent(seqs)

    monkeypatch.setattr(desk.store, "sent", slowly)
    async with desk.sending():
        await (await desk.put(1))
        await asked.wait()
        assert await (await desk.put(2)) == 2
        assert desk.store.outbox_depth == 2
        slow.set()
        while desk.store.outbox_depth:
            await asyncio.sleep(0)


async def test_a_drained_outbox_has_an_empty_file(desk: Desk):
    async with desk.sending():
        for revision in range(1, 4):
            await desk.put(revision)
        assert await desk.outbox.drained(DEADLINE_S)
        assert desk.store.outbox_depth == 0


async def test_an_outbox_that_is_not_sent_is_not_drained_in_time(desk: Desk):
    await desk.put(1)
    assert not await desk.outbox.drained(0.01)
    assert desk.store.outbox_depth == 1
