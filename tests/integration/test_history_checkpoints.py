"""Checkpoints: what may be rested on, what may not, and what a stream that lost its beginning still tells."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from builders import MESH, NOW_MS, Authority, Identity, evicted, instance, registered
from log_support import connected
from memory_past import STREAM, MemoryCheckpoints, MemoryPast, replayer_of
from nats_server import NatsServer
from pinned import PINNED

from pmoves_mesh.agent.history.keeping import Keeping
from pmoves_mesh.agent.history.replay import Replayed, Replayer
from pmoves_mesh.core import checkpoint, envelope, milestones, records
from pmoves_mesh.core.checkpoint import Place
from pmoves_mesh.core.event import CertificatesRevoked, Event
from pmoves_mesh.core.moments import BeforeHistoryError, Moment
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.log.checkpoints import NatsCheckpoints
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient
from pmoves_mesh.log.topology import ensure

EVENTS = 12
DATA = bytes(range(256)) * 2000


class World:
    """A mesh of one node with a stream of twelve events, and whoever makes checkpoints of it."""

    def __init__(self) -> None:
        self.authority = Authority()
        self.alpha, self.keeper = self.authority.identity("alpha"), self.authority.identity("keeper")
        self.broker = MemoryBroker(PINNED)
        self.client = MemoryClient(self.broker, random.Random(1))
        for number in range(1, EVENTS + 1):
            self.publish(registered(number, instance(f"service-{number}")), self.alpha)
        self.checkpoints = MemoryCheckpoints()
        self.past = MemoryPast(self.messages())

    def publish(self, event: Event, by: Identity) -> int:
        return self.broker.publish(envelope.seal(event, by), None)

    def messages(self):
        return self.broker.after(0, 1000)[0]

    def replayer(self) -> Replayer:
        return replayer_of(self.past, self.checkpoints, self.authority, self.client)

    async def at(self, position: int, replayer: Replayer | None = None) -> Replayed:
        moment = Moment(field="at", position=position)
        return await (replayer or self.replayer()).at(moment, await self.past.kept())

    async def make(self, position: int, by: Identity | None = None) -> Place:
        """Makes a checkpoint as a keeper does."""
        held = await self.at(position)
        place = Place(position=position, time_ms=held.time_ms, stream_id=self.past.stream_id)
        self.checkpoints.held[place] = checkpoint.seal(held.registry, MESH, place, by or self.keeper)
        return place

    def keeping(self, replayer: Replayer | None = None) -> Keeping:
        return Keeping(
            self.past, self.checkpoints, replayer or self.replayer(), lambda: self.keeper, self.seed
        )

    async def seed(self) -> Registry:
        whole, none = MemoryPast(self.messages()), MemoryCheckpoints()
        replayer = replayer_of(whole, none, self.authority, self.client)
        return (await replayer.at(Moment(field="at", position=7), await whole.kept())).registry


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are wanted every four events."""
    monkeypatch.setattr(milestones, "STEP", 4)


def names(held: Replayed) -> set[str]:
    return {entry.record.name for entry in held.registry.entries()}


async def test_the_nearest_checkpoint_is_used_and_named(world: World):
    await world.make(4)
    await world.make(8)
    held = await world.at(10)
    assert held.checkpoint is not None
    assert (held.checkpoint.position, held.checkpoint.signer) == (8, "spiffe://pmoves-mesh/node/keeper")
    assert names(held) == {f"service-{number}" for number in range(1, 11)}


async def test_a_moment_before_every_checkpoint_is_told_from_the_beginning(world: World):
    await world.make(8)
    held = await world.at(7)
    assert held.checkpoint is None
    assert len(names(held)) == 7


def changed(data: bytes) -> bytes:
    sealed = msgspec.msgpack.decode(data, type=checkpoint.Sealed)
    return msgspec.msgpack.encode(msgspec.structs.replace(sealed, registry=sealed.registry[:-1] + b"?"))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda _: b"", "malformed"),
        (lambda data: data[:-1], "malformed"),
        (lambda _: b"nothing", "malformed"),
        (changed, "bad_signature"),
    ],
)
async def test_a_damaged_or_forged_checkpoint_is_counted_and_the_one_before_it_is_used(
    world: World, damage: Callable[[bytes], bytes], reason: str
):
    await world.make(4)
    place = await world.make(8)
    world.checkpoints.held[place] = damage(world.checkpoints.held[place])
    replayer = world.replayer()
    held = await world.at(10, replayer)
    assert held.checkpoint is not None
    assert held.checkpoint.position == 4
    assert len(names(held)) == 10
    assert replayer.refused == {reason: 1}


async def test_a_checkpoint_of_somebody_outside_of_the_mesh_is_not_used(world: World):
    await world.make(8, Authority().identity("keeper"))
    replayer = world.replayer()
    assert (await world.at(10, replayer)).checkpoint is None
    assert replayer.refused == {"untrusted_issuer": 1}


async def test_a_checkpoint_of_a_node_that_was_revoked_since_is_not_used(world: World):
    await world.make(8)
    operator = world.authority.identity("root", "operator")
    revocation = CertificatesRevoked(
        mesh=MESH,
        node="keeper",
        incarnation=NOW_MS,
        revision=1,
        operator="root",
        fingerprints=(world.keeper.fingerprint,),
    )
    position = world.publish(revocation, operator)
    sealed = envelope.seal(revocation, operator)
    record = records.record_of(sealed, revocation, position=position, time_ms=NOW_MS)
    await MemoryBucket(world.client, "registry").put(records.key_of(revocation), records.encode(record))
    replayer = world.replayer()
    held = await world.at(10, replayer)
    assert held.checkpoint is None
    assert len(names(held)) == 10
    assert replayer.refused == {"revoked": 1}


async def test_a_checkpoint_of_a_stream_that_was_replaced_is_passed_over(world: World):
    await world.make(8)
    world.past.stream_id = "another"
    replayer = world.replayer()
    assert (await world.at(10, replayer)).checkpoint is None
    assert replayer.refused == {}


async def test_what_was_decreed_in_an_earlier_stream_holds_from_the_first_event_on(world: World):
    operator = world.authority.identity("root", "operator")
    event = evicted("service-1")
    record = records.record_of(envelope.seal(event, operator), event, position=0, time_ms=NOW_MS)
    await MemoryBucket(world.client, "registry").put(records.key_of(event), records.encode(record))
    registry = (await world.at(2)).registry
    listed = {entry.record.name for entry in registry.entries() if registry.is_listed(entry)}
    assert listed == {"service-2"}


async def test_a_hole_in_the_stream_is_a_moment_like_any_other(world: World):
    world.past.all = [message for message in world.past.all if message.position not in {5, 6}]
    held = await world.at(6)
    assert (held.position, len(names(held))) == (4, 4)


# A stream that lost its beginning


async def test_a_stream_that_lost_its_beginning_tells_only_from_the_checkpoint_that_joins_it(world: World):
    await world.make(4)
    await world.make(8)
    world.past.first = 7
    with pytest.raises(BeforeHistoryError) as raised:
        await world.at(7)
    assert raised.value.from_position == 8
    assert len(names(await world.at(9))) == 9


async def test_a_checkpoint_just_before_the_first_event_tells_all_that_is_retained(world: World):
    await world.make(6)
    world.past.first = 7
    assert len(names(await world.at(7))) == 7
    with pytest.raises(BeforeHistoryError) as raised:
        await world.at(6)
    assert raised.value.from_position == 7


async def test_without_a_checkpoint_such_a_stream_tells_nothing_rather_than_half(world: World):
    world.past.first = 7
    with pytest.raises(BeforeHistoryError):
        await world.at(12)


@pytest.mark.usefixtures("small")
async def test_a_keeper_of_such_a_stream_begins_with_what_the_bucket_holds(world: World):
    world.past.first = 6
    assert await world.keeping().keep(EVENTS) == [8, 12]
    assert len(names(await world.at(9))) == 9


# Keeping


@pytest.mark.usefixtures("small")
async def test_a_keeper_makes_what_is_missing_and_leaves_what_is_there(world: World):
    assert await world.keeping().keep(EVENTS) == [4, 8, 12]
    assert await world.keeping().keep(EVENTS) == []
    assert [place.position for place in world.checkpoints.held] == [4, 8, 12]
    assert (await world.at(5)).checkpoint is not None


@pytest.mark.usefixtures("small")
async def test_of_two_keepers_one_is_first(world: World):
    made = await asyncio.gather(world.keeping().keep(EVENTS), world.keeping().keep(EVENTS))
    assert sorted(position for positions in made for position in positions) == [4, 8, 12]


@pytest.mark.usefixtures("small")
async def test_a_keeper_removes_what_is_of_another_stream_or_before_the_first_event(
    world: World,
):
    await world.keeping().keep(EVENTS)
    world.past.first = 7
    await world.keeping().keep(EVENTS)
    assert [place.position for place in world.checkpoints.held] == [8, 12]
    world.past.first, world.past.stream_id = 1, "another"
    await world.keeping().keep(EVENTS)
    assert {place.stream_id for place in world.checkpoints.held} == {"another"}


@pytest.mark.usefixtures("small")
async def test_a_keeper_makes_anew_what_was_not_believed(world: World):
    await world.keeping().keep(EVENTS)
    place = next(place for place in world.checkpoints.held if place.position == 8)
    world.checkpoints.held[place] = b"nothing"
    replayer = world.replayer()
    await world.at(9, replayer)
    assert await world.keeping(replayer).keep(EVENTS) == [8]
    held = await world.at(9)
    assert held.checkpoint is not None
    assert held.checkpoint.position == 8


# The store


@pytest.fixture
async def store(nats_server: NatsServer) -> AsyncIterator[Connection]:
    async with connected(NatsSettings(servers=(nats_server.url,))) as connection:
        await ensure(connection, MESH, "ab" * 32)
        yield connection


def place(position: int) -> Place:
    return Place(position=position, time_ms=NOW_MS, stream_id=STREAM)


async def test_what_is_kept_is_listed_and_read_by_others(store: Connection):
    mine, other = NatsCheckpoints(store), NatsCheckpoints(store)
    assert await mine.write(place(8), DATA)
    assert await mine.write(place(4), b"small")
    assert list(await other.listed()) == [place(4), place(8)]
    assert await other.read(place(8)) == DATA
    assert await other.read(place(4)) == b"small"


async def test_a_place_is_taken_once(store: Connection):
    assert await NatsCheckpoints(store).write(place(8), DATA)
    other = NatsCheckpoints(store)
    assert not await other.write(place(8), b"another")
    await other.listed()
    assert await other.read(place(8)) == DATA


async def test_what_is_removed_is_gone_and_its_place_is_free(store: Connection):
    mine = NatsCheckpoints(store)
    await mine.write(place(8), DATA)
    await mine.delete(place(8))
    other = NatsCheckpoints(store)
    async with asyncio.timeout(10):
        while not await other.write(place(8), b"anew"):
            await asyncio.sleep(0.05)
    await other.listed()
    assert await other.read(place(8)) == b"anew"


async def test_what_is_not_what_was_written_is_not_read(store: Connection):
    mine = NatsCheckpoints(store)
    await mine.write(place(8), DATA)
    described = mine._known[place(8)]
    await store.session().request(f"$O.MESH_CHECKPOINTS.C.{described.nuid}", b"more")
    assert await mine.read(place(8)) == DATA
    await store.session().request(f"$O.MESH_CHECKPOINTS.C.{described.nuid}", b"less", {"Nats-Rollup": "sub"})
    assert await mine.read(place(8)) is None
    assert await mine.read(place(9)) is None


async def test_what_somebody_else_put_there_is_passed_over(store: Connection):
    for description in (
        b"nothing",
        b"{}",
        b'{"name": "x", "bucket": "x", "nuid": "*", "size": 1, "chunks": 1}',
    ):
        await store.session().request("$O.MESH_CHECKPOINTS.M.abc", description)
        assert await NatsCheckpoints(store).listed() == []


async def test_without_a_store_there_are_no_checkpoints(nats_server: NatsServer):
    async with connected(NatsSettings(servers=(nats_server.url,))) as connection:
        assert await NatsCheckpoints(connection).listed() == []
