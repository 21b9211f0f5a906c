"""The log's twin in memory: its faults, its repeatability, and its promises in virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.errors import LogUnavailable, SequenceGap
from pmoves_mesh.log.memory import (
    Faults,
    MemoryBroker,
    MemoryBucket,
    MemoryClient,
    MemoryLog,
    MemoryWorkQueue,
)
from pmoves_mesh.ports import LogMessage, TailBatch


class VirtualClock:
    """Time that passes only when everybody waits: a sleep moves it on at once."""

    def __init__(self) -> None:
        self.now_s = 1_700_000_000.0

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.now_s += max(0.0, seconds)


def seeded(seed: int) -> random.Random:
    return random.Random(seed)


def event(number: int) -> SealedEvent:
    headers = {"Nats-Msg-Id": f"event-{number}"}
    return SealedEvent(subject="service.registry.updated", payload=b"%d" % number, headers=headers)


def make(faults: Faults | None = None, seed: int = 1) -> tuple[MemoryBroker, MemoryClient, VirtualClock]:
    clock = VirtualClock()
    broker = MemoryBroker(clock)
    return broker, MemoryClient(broker, seeded(seed), faults), clock


async def next_batch(tail: AsyncIterator[TailBatch]) -> TailBatch:
    async with asyncio.timeout(10):
        return await anext(tail)


async def publish_stubbornly(log: MemoryLog, number: int) -> int:
    while True:
        with contextlib.suppress(LogUnavailable):
            return await log.publish(event(number))


async def lossy_run(seed: int) -> list[LogMessage]:
    faults = Faults(drop=0.3, duplicate=0.3, delay_max_s=0.5)
    _, client, _ = make(faults, seed)
    log = MemoryLog(client)
    await asyncio.gather(*(publish_stubbornly(log, number) for number in range(50)))
    async with contextlib.aclosing(log.tail(0)) as tail:
        return list((await next_batch(tail)).messages)


async def test_events_arrive_once_each_however_lossy_the_way_is() -> None:
    messages = await lossy_run(7)
    assert sorted(int(message.sealed.payload) for message in messages) == list(range(50))
    assert [message.position for message in messages] == list(range(1, 51))


async def test_requests_overtake_each_other_when_they_take_their_time() -> None:
    messages = await lossy_run(7)
    assert [int(message.sealed.payload) for message in messages] != list(range(50))


async def test_the_same_seed_gives_the_same_run_and_another_seed_another() -> None:
    assert await lossy_run(3) == await lossy_run(3)
    assert await lossy_run(3) != await lossy_run(4)


async def test_a_disconnected_client_fails_at_once_and_its_tail_says_so_and_goes_on() -> None:
    broker, client, _ = make()
    other = MemoryLog(MemoryClient(broker, seeded(2)))
    log = MemoryLog(client)
    async with contextlib.aclosing(log.tail(0)) as tail:
        assert await next_batch(tail) == TailBatch(messages=[], pending=0)
        client.disconnect()
        assert not log.connected
        assert (await next_batch(tail)).pending is None
        for call in (log.publish(event(0)), log.bounds(), MemoryBucket(client, "B").get("a")):
            with pytest.raises(LogUnavailable):
                await call
        await other.publish(event(1))
        client.reconnect()
        batch = await next_batch(tail)
        assert [message.sealed for message in batch.messages] == [event(1)]
        assert batch.pending == 0


async def test_a_request_under_way_fails_when_the_connection_is_lost() -> None:
    _, client, _ = make(Faults(delay_max_s=1))
    publishing = asyncio.ensure_future(MemoryLog(client).publish(event(1)))
    await asyncio.sleep(0)
    client.disconnect()
    client.reconnect()
    with pytest.raises(LogUnavailable):
        await publishing


async def test_a_tail_of_a_stream_made_anew_ends_with_a_gap() -> None:
    broker, client, _ = make()
    log = MemoryLog(client)
    await log.publish(event(1))
    async with contextlib.aclosing(log.tail(0)) as tail:
        await next_batch(tail)
        broker.reset()
        with pytest.raises(SequenceGap) as caught:
            await next_batch(tail)
    assert caught.value.held == 1
    assert (await log.bounds()).last == 0


async def test_a_tail_is_cut_off_when_the_stream_is_restored_though_that_ends_where_it_was():
    broker, client, _ = make()
    log = MemoryLog(client)
    await log.publish(event(1))
    backup = broker.backup()
    async with contextlib.aclosing(log.tail(0)) as tail:
        await next_batch(tail)
        broker.restore(backup)
        assert (await next_batch(tail)).pending is None
        again = await next_batch(tail)
        assert (list(again.messages), again.pending) == ([], 0)


async def test_a_marker_that_is_worked_on_is_not_handed_out_again():
    broker, client, clock = make()
    queue = MemoryWorkQueue(client, "leases")
    broker.put("leases", "alpha", b"", expected=None, ttl_s=1)
    (marker,) = await queue.fetch(1, 5)
    for _ in range(3):
        await clock.sleep(1.5)
        await marker.working()
        assert not await queue.fetch(1, 0)
    await clock.sleep(2)
    assert len(await queue.fetch(1, 0)) == 1


async def test_a_message_id_is_known_for_two_minutes() -> None:
    _, client, clock = make()
    log = MemoryLog(client)
    first = await log.publish(event(1))
    await clock.sleep(119)
    assert await log.publish(event(1)) == first
    await clock.sleep(2)
    assert await log.publish(event(1)) == first + 1


async def test_a_ttl_runs_out_to_the_millisecond() -> None:
    _, client, clock = make()
    log, bucket = MemoryLog(client), MemoryBucket(client, "B")
    await log.publish(event(1), ttl_s=10)
    await bucket.put("a", b"1", ttl_s=10)
    await clock.sleep(9.999)
    assert (await log.bounds()).first == 1
    assert await bucket.get("a") is not None
    await clock.sleep(0.001)
    assert (await log.bounds()).first == 2
    assert await bucket.get("a") is None


async def test_a_lost_bucket_is_empty_and_counts_from_the_beginning() -> None:
    broker, client, _ = make()
    bucket, other = MemoryBucket(client, "B"), MemoryBucket(client, "C")
    first = await bucket.put("a", b"1")
    await bucket.put("a", b"2")
    await other.put("a", b"1")
    broker.lose("B")
    assert await bucket.get("a") is None
    assert await bucket.put("a", b"3", expected=0) == first
    assert await other.get("a") is not None


async def test_an_event_that_nobody_acknowledged_is_handed_out_again_after_thirty_seconds() -> None:
    broker, client, clock = make()
    mine, others = MemoryWorkQueue(client), MemoryWorkQueue(MemoryClient(broker, seeded(2)))
    await MemoryLog(client).publish(event(1))
    (forgotten,) = await mine.fetch(10, 1)
    assert list(await others.fetch(10, 1)) == []
    begin = clock.monotonic_s()
    (again,) = await others.fetch(10, 60)
    assert 28 <= clock.monotonic_s() - begin <= 31
    assert again.message == forgotten.message
    assert await others.floor() == 0
    await again.ack()
    assert await others.floor() == 1


async def test_a_worker_is_given_no_more_than_two_thousand_events_at_a_time() -> None:
    _, client, _ = make()
    log, queue = MemoryLog(client), MemoryWorkQueue(client)
    for number in range(2100):
        await log.publish(event(number))
    held = await queue.fetch(5000, 1)
    assert len(held) == 2000
    assert list(await queue.fetch(5000, 1)) == []
    await held[0].ack()
    assert len(await queue.fetch(5000, 1)) == 1


async def test_a_fetch_may_come_in_another_order_when_asked_to() -> None:
    _, client, _ = make(Faults(reorder=1))
    for number in range(20):
        await MemoryLog(client).publish(event(number))
    positions = [delivery.message.position for delivery in await MemoryWorkQueue(client).fetch(20, 1)]
    assert sorted(positions) == list(range(1, 21))
    assert positions != sorted(positions)


async def test_an_acknowledgement_after_a_lost_connection_is_refused() -> None:
    _, client, _ = make()
    await MemoryLog(client).publish(event(1))
    (delivery,) = await MemoryWorkQueue(client).fetch(1, 1)
    client.disconnect()
    client.reconnect()
    with pytest.raises(LogUnavailable):
        await delivery.ack()


async def test_a_load_ends_with_an_error_when_the_connection_is_lost_on_the_way() -> None:
    _, client, _ = make()
    bucket = MemoryBucket(client, "B")
    for key in ("a", "b"):
        await bucket.put(key, b"")
    loading = bucket.load()
    assert (await anext(loading)).key == "a"
    client.disconnect()
    with pytest.raises(LogUnavailable):
        await anext(loading)
