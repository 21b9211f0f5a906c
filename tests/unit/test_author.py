"""The author: its events form one chain, whatever the disk does to some of them."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NoReturn

import pytest
from builders import NOW_MS, Authority, instance
from chains import audited

from pmoves_mesh.agent import author as author_module
from pmoves_mesh.agent.author import Author, Place
from pmoves_mesh.agent.outbox import Outbox
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.event import InstanceUpdated
from pmoves_mesh.errors import MeshError, StoreError
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.store import journal
from pmoves_mesh.store.records import Commit, NodeState
from pmoves_mesh.store.store import Store
from pmoves_mesh.verifier import Verifier

Fails = Callable[[Commit], bool]


class PinnedClock(SystemClock):
    """A clock whose date is one at which the test's certificates hold."""

    now = NOW_MS

    def now_ms(self) -> int:
        return self.now


class Desk:
    """An author, and what stands in its outbox."""

    def __init__(self, store: Store) -> None:
        self.authority = Authority()
        self.store = store
        self.clock = PinnedClock()
        client = MemoryClient(MemoryBroker(self.clock), random.Random(1))
        verifier = Verifier(self.authority.trust, MemoryBucket(client, "identities"), self.clock)
        log = MemoryLog(client)
        replica = Replica(verifier, log, MemoryBucket(client, "registry"), self.clock)
        outbox = Outbox(store, log, self.clock)
        self.author = Author("alpha", self.authority.identity("alpha"), store, replica, outbox, self.clock)

    async def state(self, port: int = 1) -> None:
        def build(place: Place) -> tuple[InstanceUpdated]:
            return (InstanceUpdated(**place, service="rag", data=instance(port=port)),)

        await self.author.state(build)

    async def revisions(self) -> list[int]:
        """Returns the revisions of what goes out; an audit has nothing to say against it."""
        waiting = [entry.sealed for entry in await self.store.outbox(10_000)]
        report = audited(self.authority, waiting)
        assert not report.findings
        return [int(sealed.message_id.rsplit(".", 1)[1]) for sealed in waiting]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with Store.opened(tmp_path) as store:
        desk = Desk(store)
        await desk.author.begin()
        yield desk


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Fails], None]:
    """Returns what lets the commits be refused of which a function says so."""
    refused = journal._Group._refused

    def let_fail(fails: Fails) -> None:
        def refusing(group: journal._Group, commit: Commit) -> MeshError | None:
            return StoreError("mesh.db", "disk is full") if fails(commit) else refused(group, commit)

        monkeypatch.setattr(journal._Group, "_refused", refusing)

    return let_fail


async def test_what_is_stated_after_a_failure_follows_what_was_stored_before_it(
    desk: Desk, failing: Callable[[Fails], None]
):
    await desk.state()
    failing(lambda _: True)
    with pytest.raises(StoreError, match="disk is full"):
        await desk.state()
    failing(lambda _: False)
    await desk.state()
    assert await desk.revisions() == [1, 3]


async def test_events_that_a_full_disk_refuses_together_leave_the_chain_whole(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    await desk.state()

    def full(_group: journal._Group, _database: sqlite3.Connection) -> NoReturn:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(journal._Group, "write", full)
        outcomes = await asyncio.gather(*(desk.state() for _ in range(4)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StoreError] * 4
    await desk.state()
    assert await desk.revisions() == [1, 6]


async def test_what_was_stated_while_an_event_failed_fails_with_it(
    desk: Desk, failing: Callable[[Fails], None]
):
    failing(lambda commit: commit.state.revision == 2)
    outcomes = await asyncio.gather(*(desk.state() for _ in range(4)), return_exceptions=True)
    assert [isinstance(outcome, StoreError) for outcome in outcomes] == [False, True, True, True]
    await desk.state()
    assert await desk.revisions() == [1, 5]


@pytest.mark.parametrize("seed", range(20))
async def test_events_stated_at_once_form_one_chain_whichever_of_them_fail(
    desk: Desk, failing: Callable[[Fails], None], seed: int
):
    rng = random.Random(seed)
    unlucky = {revision for revision in range(1, 200) if rng.random() < 0.05}
    failing(lambda commit: commit.state.revision in unlucky)

    async def caller() -> list[int]:
        stored = []
        for _ in range(10):
            revision = desk.author.stamp.revision + 1
            try:
                await desk.state()
            except StoreError:
                continue
            stored.append(revision)
        return stored

    acknowledged = [
        revision for each in await asyncio.gather(*(caller() for _ in range(10))) for revision in each
    ]
    assert await desk.revisions() == sorted(acknowledged)
    assert acknowledged


async def test_a_disk_that_takes_too_long_fails_the_call_and_the_event_goes_out_once_it_is_stored(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
):
    answers = threading.Event()
    blocked = asyncio.create_task(desk.store._run(lambda: answers.wait(10)))
    await asyncio.sleep(0)
    monkeypatch.setattr(author_module, "_DISK_S", 0.01)
    with pytest.raises(StoreError, match="the disk took longer"):
        await desk.state()
    monkeypatch.setattr(author_module, "_DISK_S", 30)
    answers.set()
    await blocked
    await desk.state()
    assert await desk.revisions() == [1, 2]
    assert desk.author._outbox.depth == 2


@pytest.mark.parametrize(
    ("stored", "now_ms", "above", "least", "most"),
    [
        (5, 900_000, 0, 900_000, 900_000),
        (900_000, 5, 0, 900_001, 965_536),
        (9, 9, 0, 10, 65_545),
        (9, 9, 12, 13, 65_548),
    ],
)
async def test_an_incarnation_is_later_than_every_earlier_one_and_than_what_the_mesh_knows(
    tmp_path: Path, stored: int, now_ms: int, above: int, least: int, most: int
):
    async with Store.opened(tmp_path) as store:
        await store.commit(Commit(state=NodeState(incarnation=stored, revision=7, head="head-7")))
        desk = Desk(store)
        desk.clock.now = now_ms
        await desk.author.begin(above)
        begun = desk.author.stamp.incarnation
        assert least <= begun <= most
        assert desk.author.stamp.revision == 0
    async with Store.opened(tmp_path) as store:
        assert store.state == NodeState(incarnation=begun, revision=0, head="head-7")


async def test_what_is_stated_while_a_new_incarnation_begins_belongs_to_it(desk: Desk):
    await desk.state()
    before = desk.author.stamp.incarnation
    await asyncio.gather(desk.author.begin(), desk.state())
    assert desk.store.state.incarnation == desk.author.stamp.incarnation > before
    assert desk.author.stamp.revision == desk.store.state.revision == 1
    assert await desk.revisions() == [1, 1]
