"""The replica against the memory log: what it fetches, what it boots from, how far it says it is."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec
import pytest
from builders import MESH, Authority, announced, evicted, instance, line, registered, revoked
from http_support import PinnedClock, Served, served

from pmoves_mesh.agent.announcer import Announcer
from pmoves_mesh.config import load
from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.event import Event
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.errors import CapacityError
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog
from pmoves_mesh.replica import Replica
from pmoves_mesh.store.records import Commit
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views.rebuild import rebuild

DEADLINE_S = 10.0
RAG = "service.rag.alpha.1"


class Node:
    """A replica on a broker of its own, and the authors of its events."""

    def __init__(self) -> None:
        self.clock = PinnedClock()
        self.authority = Authority()
        self.alpha = self.authority.identity("alpha")
        self.broker = MemoryBroker(self.clock)
        self.client = client = MemoryClient(self.broker, random.Random(1))
        self.bucket = MemoryBucket(client, "registry")
        verifier = Verifier(self.authority.trust, MemoryBucket(client, "identities"), self.clock)
        self.replica = Replica(verifier, MemoryLog(client), self.bucket, self.clock)

    def publish(self, event: Event) -> int:
        return self.broker.publish(envelope.seal(event, self.alpha), None)

    async def materialise(self, event: Event, position: int) -> None:
        sealed = envelope.seal(event, self.alpha)
        record = records.record_of(sealed, event, position=position, time_ms=self.clock.now_ms())
        await self.bucket.put(records.key_of(event), records.encode(record))

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Replica]:
        task = asyncio.create_task(self.replica.run())
        try:
            yield self.replica
        finally:
            task.cancel()
            await asyncio.wait((task,))


async def test_what_is_fetched_from_the_bucket_says_nothing_of_how_far_the_stream_was_followed():
    node = Node()
    await node.materialise(registered(1), position=12)
    last = node.publish(announced(2, [line(1)]))
    async with node.following() as replica:
        await replica.wait_position(last, DEADLINE_S)
        async with asyncio.timeout(DEADLINE_S):
            while replica.registry.entry(InstanceKey("rag", "alpha", "1")) is None:
                await asyncio.sleep(0)
        assert replica.position == last == 1


async def test_a_boot_knows_what_a_node_said_in_an_earlier_stream_though_it_was_revoked_in_this_one():
    node = Node()
    root = node.authority.identity("root", "operator")
    await node.materialise(announced(9), position=0)
    decree = revoked(node.alpha.fingerprint)
    record = records.record_of(envelope.seal(decree, root), decree, position=4, time_ms=node.clock.now_ms())
    await node.bucket.put(records.key_of(decree), records.encode(record))
    await node.replica.restore_from_bucket(4)
    assert node.replica.registry.nodes["alpha"].latest == announced(9).stamp
    assert node.replica.verifier.rejected.total() == 0


async def test_a_boot_from_the_bucket_leaves_what_was_followed_before_behind():
    node = Node()
    last = node.publish(registered(1))
    async with node.following() as replica:
        await replica.wait_position(last, DEADLINE_S)
    assert len(node.replica.registry) == 1
    await node.materialise(registered(1, instance("whisper")), position=40)
    version = node.replica.registry.version
    assert (await node.replica.restore_from_bucket(50)).keys == 1
    assert [entry.record.name for entry in node.replica.registry.entries()] == ["whisper"]
    assert node.replica.position == 50
    assert node.replica.registry.version > version


async def test_of_a_large_bucket_each_record_is_verified_as_of_a_small_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pmoves_mesh.reading._PIECE_BYTES", 8192)
    monkeypatch.setattr("pmoves_mesh.reading._SHARED_MIN", 8)
    node = Node()
    for number in range(1, 21):
        await node.materialise(registered(number, instance(f"service-{number}")), position=number)
    for forged in (3, 19):  # one of those that are verified at once, and one of the rest
        key = f"service.service-{forged}.alpha.1"
        entry = await node.bucket.get(key)
        assert entry is not None
        await node.bucket.put(key, entry.value.replace(b'"port":', b'"port":1', 1))
    assert (await node.replica.restore_from_bucket(20)).keys == 20
    held = {entry.record.name for entry in node.replica.registry.entries()}
    assert held == {f"service-{number}" for number in range(1, 21)} - {"service-3", "service-19"}
    assert node.replica.verifier.rejected == {"bad_signature": 2}


async def test_readers_are_told_once_of_all_instances_that_a_boot_brings_and_of_each_node_besides():
    node, told, replaced = Node(), list[str](), list[int]()
    for number in range(1, 101):
        await node.materialise(registered(number, instance(f"service-{number}")), position=number)
    await node.materialise(announced(101), position=101)
    with node.replica.subscribed(
        lambda applied: told.append(applied.verified.event.type),
        lambda: replaced.append(len(node.replica.registry)),
    ):
        await node.replica.restore_from_bucket(101)
    assert told == ["mesh.node.announce.v1"]
    assert replaced == [100]


async def test_what_revoked_certificates_signed_is_refused_wherever_the_bucket_has_it():
    node = Node()
    for number in range(1, 101):
        await node.materialise(registered(number, instance(f"service-{number}")), position=number)
    decree = revoked(node.alpha.fingerprint)
    sealed = envelope.seal(decree, node.authority.identity("root", "operator"))
    record = records.record_of(sealed, decree, position=50, time_ms=node.clock.now_ms())
    await node.bucket.put(records.key_of(decree), records.encode(record))
    await node.replica.restore_from_bucket(100)
    assert len(node.replica.registry) == 50
    assert node.replica.verifier.rejected == {"revoked": 50}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as here:
        yield here


@contextmanager
def full(mesh: Served, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lets the store take nothing for a while."""

    def refuse(_commit: object) -> asyncio.Future[tuple[int, ...]]:
        refused: asyncio.Future[tuple[int, ...]] = asyncio.get_running_loop().create_future()
        refused.set_exception(CapacityError("events in the outbox", 0))
        return refused

    with monkeypatch.context() as patch:
        patch.setattr(mesh.store, "commit", refuse)
        yield


async def test_a_full_outbox_costs_the_announcer_its_turn_and_not_the_agent_its_life(
    mesh: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = load({"MESH_HOSTNAME": "alpha", "PMOVES_MESH_NAME": MESH, "ANNOUNCE_SEC": "1"}, tmp_path)
    author = mesh.registrations._author
    announcer = Announcer(
        config, author, mesh.registrations, mesh.replica, MemoryLog(mesh.client), PinnedClock()
    )
    with full(mesh, monkeypatch):
        task = asyncio.create_task(announcer.run())
        assert (await mesh.register(name="rag", port=1)).status == 507
        while not mesh.registrations.changed.is_set():
            await asyncio.sleep(0)
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (node := mesh.replica.registry.nodes.get("alpha")) or node.announced is None:
                assert not task.done()
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_a_removal_waits_for_the_registration_that_is_under_way(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    with full(mesh, monkeypatch):
        kept, removed = await asyncio.gather(
            mesh.register(name="rag", port=1), mesh.ask("DELETE", "/api/services/rag")
        )
    assert (kept.status, removed.status) == (507, 404)
    assert not mesh.registrations.held


def slow_disk(mesh: Served, monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Lets nothing become durable until what it returns is set."""
    commit, disk = mesh.store.commit, asyncio.Event()

    async def commit_later(one: Commit) -> tuple[int, ...]:
        await disk.wait()
        return await commit(one)

    monkeypatch.setattr(mesh.store, "commit", lambda one: asyncio.ensure_future(commit_later(one)))
    return disk


async def test_what_is_on_its_way_to_the_disk_is_not_stated_a_second_time(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    disk = slow_disk(mesh, monkeypatch)
    registering = asyncio.create_task(mesh.register(name="rag", port=1))
    async with asyncio.timeout(DEADLINE_S):
        while not mesh.registrations.held:
            await asyncio.sleep(0)
        (key,) = mesh.registrations.held
        assert not await mesh.registrations.restate(key)
    disk.set()
    assert (await registering).body["service"]["revision"] == 1


async def test_what_somebody_contradicts_meanwhile_is_answered_once_it_is_stated_again(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    registrations, registry = mesh.registrations, mesh.replica.registry
    settled, dropped = registrations.settled, asyncio.Event()

    async def contradicted(future: asyncio.Future[int], *, wait: bool) -> int:
        position = await settled(future, wait=wait)
        for key in registrations.held:
            registry.drop(key)  # as another run with this node's identity would have it
        dropped.set()
        return position

    monkeypatch.setattr(registrations, "settled", contradicted)
    registering = asyncio.create_task(mesh.register(name="rag", port=1))
    async with asyncio.timeout(DEADLINE_S):
        await dropped.wait()
        (key,) = registrations.held
        assert await registrations.restate(key)
        assert (await registering).status == 200


async def test_what_is_removed_while_other_services_are_stated_again_stays_removed(
    mesh: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = load({"MESH_HOSTNAME": "alpha", "PMOVES_MESH_NAME": MESH}, tmp_path)
    registrations, registry = mesh.registrations, mesh.replica.registry
    log = MemoryLog(mesh.client)
    announcer = Announcer(config, registrations._author, registrations, mesh.replica, log, PinnedClock())
    for name in ("rag", "whisper"):
        assert (await mesh.register(name=name, port=1)).status == 200
    for key in registrations.held:
        registry.drop(key)  # as if the mesh did not know them any more
    disk = slow_disk(mesh, monkeypatch)
    restating = asyncio.create_task(announcer._reconcile())
    removing = asyncio.create_task(registrations.deregister("whisper", wait=False))
    while {key.service for key in registrations.held} != {"rag"}:
        await asyncio.sleep(0)
    disk.set()
    await asyncio.gather(restating, removing)
    assert [one.service for one in await mesh.store.registrations()] == ["rag"]


async def test_whoever_subscribes_is_told_of_a_new_beginning_once_readers_see_it():
    node = Node()
    node.authority.trust.admit(node.alpha.der)
    node.publish(registered(1))
    found: list[bool] = []
    async with node.following() as replica:
        assert await replica.wait_current(DEADLINE_S)
    fresh = instance("whisper")
    await node.materialise(registered(2, fresh), 2)
    with node.replica.subscribed(lambda _: found.append(node.replica.registry.entry(fresh.key) is not None)):
        await node.replica.restore_from_bucket(2)
    assert found == [True]


async def test_a_record_that_proves_nothing_is_written_anew_though_it_says_that_it_is_later():
    node = Node()
    node.authority.trust.admit(node.alpha.der)
    node.publish(registered(1))
    await node.materialise(registered(1), 1)
    entry = await node.bucket.get(RAG)
    assert entry is not None
    later = msgspec.structs.replace(records.decode(entry.value), stamp=Stamp(9, 9), position=0)
    for key in (RAG, "service.invented.alpha.1"):
        await node.bucket.put(key, records.encode(later))
    done = await rebuild(MemoryLog(node.client), node.bucket, node.replica.verifier, node.clock)
    assert (done.written, done.deleted) == (1, 1)
    stamps = {one.key: records.decode(one.value).stamp async for one in node.bucket.load()}
    assert stamps == {RAG: Stamp(1, 1)}


async def test_a_decree_of_before_this_stream_is_learned_by_whoever_goes_on_from_its_own_snapshot():
    node = Node()
    node.authority.trust.admit(node.alpha.der)
    node.publish(registered(1))
    async with node.following() as replica:
        assert await replica.wait_current(DEADLINE_S)
    decree = evicted()
    sealed = envelope.seal(decree, node.authority.identity("root", "operator"))
    record = records.record_of(sealed, decree, position=0, time_ms=node.clock.now_ms())
    await node.bucket.put(records.key_of(decree), records.encode(record))
    async with node.following() as replica:
        assert await replica.wait_current(DEADLINE_S)
        assert replica.registry.is_evicted(InstanceKey("rag", "alpha", "1"))
