"""One suite for the log, the bucket and the work queue: on a real nats-server, and on the twin."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from log_support import CA, MESH, connected, event, eventually, in_chunks, read_until, read_until_current
from nats_server import NatsServer

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.errors import SequenceConflict
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import NatsSettings
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog, MemoryWorkQueue
from pmoves_mesh.log.queue import NatsWorkQueue
from pmoves_mesh.log.stream import NatsEventLog
from pmoves_mesh.log.topology import REGISTRY, ensure
from pmoves_mesh.ports import Bucket, EventLog, WorkQueue


@dataclass
class Side:
    log: EventLog
    bucket: Bucket
    queue: WorkQueue
    other_queue: WorkQueue


@pytest.fixture(params=["memory", "nats"])
async def side(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Side]:
    if request.param == "memory":
        broker = MemoryBroker(SystemClock())
        rng = random.Random(1)
        client, other = MemoryClient(broker, rng), MemoryClient(broker, rng)
        yield Side(
            MemoryLog(client),
            MemoryBucket(client, REGISTRY),
            MemoryWorkQueue(client),
            MemoryWorkQueue(other),
        )
        return
    with NatsServer(tmp_path) as server:
        settings = NatsSettings(servers=(server.url,))
        async with connected(settings) as connection, connected(settings) as other_connection:
            await ensure(connection, MESH, CA)
            yield Side(
                NatsEventLog(connection),
                NatsBucket(connection, REGISTRY),
                NatsWorkQueue(connection),
                NatsWorkQueue(other_connection),
            )


async def test_an_empty_log_begins_at_one_and_its_tail_with_an_empty_batch(side: Side) -> None:
    bounds = await side.log.bounds()
    assert (bounds.first, bounds.last) == (1, 0)
    assert bounds.stream_id
    async with contextlib.aclosing(side.log.tail(0)) as tail:
        assert await read_until_current(tail) == []


async def test_events_come_back_in_order_as_they_were_sealed(side: Side) -> None:
    sealed = [event(number) for number in range(1200)]
    positions = await in_chunks([partial(side.log.publish, one) for one in sealed])
    assert sorted(positions) == list(range(1, 1201))
    async with contextlib.aclosing(side.log.tail(0)) as tail:
        messages = await read_until_current(tail)
    assert [message.position for message in messages] == list(range(1, 1201))
    assert sorted(message.sealed.payload for message in messages) == sorted(one.payload for one in sealed)
    assert messages[0].sealed == sealed[positions.index(1)]
    now_ms = SystemClock().now_ms()
    assert all(abs(message.time_ms - now_ms) < 60_000 for message in messages)


async def test_a_tail_begins_after_the_position_it_is_given_and_goes_on(side: Side) -> None:
    for number in range(5):
        await side.log.publish(event(number))
    async with contextlib.aclosing(side.log.tail(3)) as tail:
        assert [message.position for message in await read_until_current(tail)] == [4, 5]
        await side.log.publish(event(5))
        assert [message.position for message in await read_until(tail, 6)] == [6]


async def test_a_message_id_is_taken_once(side: Side) -> None:
    first = await side.log.publish(event(1))
    assert await side.log.publish(event(1)) == first
    assert await side.log.publish(event(2)) == first + 1
    assert (await side.log.bounds()).last == first + 1


async def test_an_event_with_a_ttl_disappears_and_leaves_its_position_empty(side: Side) -> None:
    await side.log.publish(event(1), ttl_s=1)
    await side.log.publish(event(2))

    async def gone() -> bool:
        return (await side.log.bounds()).first == 2

    assert not await gone()
    async with contextlib.aclosing(side.log.tail(0)) as tail:
        assert [message.sealed for message in await read_until_current(tail)] == [event(1), event(2)]
    await eventually(gone)
    async with contextlib.aclosing(side.log.tail(0)) as tail:
        assert [message.position for message in await read_until_current(tail)] == [2]


async def test_a_key_is_written_read_and_removed(side: Side) -> None:
    assert await side.bucket.get("node.a") is None
    revision = await side.bucket.put("node.a", b"one")
    entry = await side.bucket.get("node.a")
    assert entry is not None
    assert (entry.key, entry.value, entry.revision) == ("node.a", b"one", revision)
    await side.bucket.delete("node.a")
    await side.bucket.delete("node.never-there")
    assert await side.bucket.get("node.a") is None
    assert await side.bucket.keys() == []


async def test_a_key_is_removed_only_at_the_expected_revision(side: Side) -> None:
    first = await side.bucket.put("node.a", b"1")
    second = await side.bucket.put("node.a", b"2")
    with pytest.raises(SequenceConflict):
        await side.bucket.delete("node.a", expected=first)
    await side.bucket.delete("node.a", expected=second)
    assert await side.bucket.get("node.a") is None


async def test_a_compare_and_set_wins_only_at_the_expected_revision(side: Side) -> None:
    first = await side.bucket.put("node.a", b"1", expected=0)
    second = await side.bucket.put("node.a", b"2", expected=first)
    assert second > first
    for stale in (0, first, second + 7):
        with pytest.raises(SequenceConflict) as caught:
            await side.bucket.put("node.a", b"x", expected=stale)
        assert (caught.value.key, caught.value.expected) == ("node.a", stale)
    entry = await side.bucket.get("node.a")
    assert entry is not None
    assert entry.value == b"2"


async def test_of_many_that_write_a_new_key_one_wins(side: Side) -> None:
    attempts = [side.bucket.put("node.a", b"%d" % number, expected=0) for number in range(20)]
    results = await asyncio.gather(*attempts, return_exceptions=True)
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, SequenceConflict) for result in results) == 19


async def test_a_removed_key_counts_as_one_without_a_value(side: Side) -> None:
    revision = await side.bucket.put("node.a", b"1")
    await side.bucket.delete("node.a")
    with pytest.raises(SequenceConflict):
        await side.bucket.put("node.a", b"2", expected=revision)
    assert await side.bucket.put("node.a", b"2", expected=0) > revision


async def test_a_key_with_a_ttl_runs_out_and_can_be_written_anew(side: Side) -> None:
    revision = await side.bucket.put("node.a", b"1", ttl_s=1)
    assert await side.bucket.get("node.a") is not None

    async def gone() -> bool:
        return await side.bucket.get("node.a") is None

    await eventually(gone)
    assert await side.bucket.keys() == []
    assert [entry async for entry in side.bucket.load()] == []
    with pytest.raises(SequenceConflict):
        await side.bucket.put("node.a", b"2", expected=revision)
    assert await side.bucket.put("node.a", b"2", expected=0) > revision


async def test_keys_and_values_are_found_by_pattern_each_once(side: Side) -> None:
    names = [f"service.s{number % 7}.node{number}.main" for number in range(1500)] + ["node.a", "node.b"]
    await in_chunks([partial(side.bucket.put, name, name.encode()) for name in names])
    await side.bucket.put("node.a", b"newer")
    await side.bucket.delete("node.b")
    assert sorted(await side.bucket.keys()) == sorted(set(names) - {"node.b"})
    assert await side.bucket.keys("node.*") == ["node.a"]
    assert len(await side.bucket.keys("service.s3.>")) == len(
        [n for n in names if n.startswith("service.s3.")]
    )
    loaded = [entry async for entry in side.bucket.load()]
    assert len(loaded) == 1501
    values = {entry.key: entry.value for entry in loaded}
    assert values.pop("node.a") == b"newer"
    assert all(key.encode() == value for key, value in values.items())
    assert [entry async for entry in side.bucket.load("nothing.>")] == []


async def test_two_workers_share_the_events_and_the_floor_follows_the_acknowledgements(side: Side) -> None:
    for number in range(100):
        await side.log.publish(event(number))
    assert await side.queue.floor() == 0
    positions: list[int] = []
    while len(positions) < 100:
        for queue in (side.queue, side.other_queue):
            for delivery in await queue.fetch(7, 0.2):
                positions.append(delivery.message.position)
                await delivery.ack()
    assert sorted(positions) == list(range(1, 101))

    async def complete() -> bool:
        return await side.queue.floor() == 100

    await eventually(complete)
    assert list(await side.queue.fetch(10, 0.05)) == []


async def test_the_floor_waits_for_the_oldest_event_that_was_not_acknowledged(side: Side) -> None:
    for number in range(4):
        await side.log.publish(event(number))
    deliveries = []
    while len(deliveries) < 4:
        deliveries.extend(await side.queue.fetch(4, 1))
    assert deliveries[2].message.sealed == event(2)
    for index in (0, 1, 3):
        await deliveries[index].ack()

    async def at_two() -> bool:
        return await side.queue.floor() == 2

    await eventually(at_two)
    await deliveries[2].ack()

    async def at_four() -> bool:
        return await side.queue.floor() == 4

    await eventually(at_four)


async def test_a_waiting_worker_gets_an_event_as_soon_as_it_is_there(side: Side) -> None:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(side.queue.fetch(10, 10))
        await asyncio.sleep(0)
        await side.log.publish(event(1))
        async with asyncio.timeout(5):
            (delivery,) = await waiting
    assert delivery.message.sealed == event(1)
