"""The writer of the registry bucket: what it looks for, and when it rests."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from builders import Authority, about, instance, registered
from http_support import PinnedClock

from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.event import Event, InstanceUpdated
from pmoves_mesh.core.model import Instance
from pmoves_mesh.log.memory import MemoryBroker, MemoryBucket, MemoryClient, MemoryLog, MemoryWorkQueue
from pmoves_mesh.ports import BucketEntry
from pmoves_mesh.replica import Replica
from pmoves_mesh.verifier import Verifier
from pmoves_mesh.views import materialiser as materialiser_module
from pmoves_mesh.views.materialiser import Materialiser

DEADLINE_S = 10.0
RAG = "service.rag.alpha.1"


class RestingClock(PinnedClock):
    """A clock that notes who sleeps for how long, and lets nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.rests: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.rests.append(seconds)
        await asyncio.sleep(0)


class WatchedBucket(MemoryBucket):
    """A bucket that notes what is looked for in it."""

    def __init__(self, client: MemoryClient, name: str) -> None:
        super().__init__(client, name)
        self.looked_for: list[str] = []

    async def get(self, key: str) -> BucketEntry | None:
        self.looked_for.append(key)
        return await super().get(key)


class Node:
    """A materialiser with what it needs, and an author of events."""

    def __init__(self) -> None:
        authority = Authority()
        self.clock = RestingClock()
        self.alpha = authority.identity("alpha")
        self.broker = MemoryBroker(self.clock)
        client = MemoryClient(self.broker, random.Random(1))
        self.bucket = WatchedBucket(client, "registry")
        verifier = Verifier(authority.trust, MemoryBucket(client, "identities"), self.clock)
        self.replica = Replica(verifier, MemoryLog(client), self.bucket, self.clock)
        self.materialiser = Materialiser(MemoryWorkQueue(client), self.bucket, self.replica, self.clock)

    def publish(self, event: Event) -> int:
        return self.broker.publish(envelope.seal(event, self.alpha), None)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(loop()) for loop in (self.replica.run, self.materialiser.run)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def written(self, revisions: dict[str, int]) -> None:
        """Waits until the bucket holds these revisions of the instances under these keys."""
        async with asyncio.timeout(DEADLINE_S):
            for key, revision in revisions.items():
                while (record := await self._record(key)) is None or record.stamp.revision != revision:
                    await asyncio.sleep(0)

    async def _record(self, key: str) -> records.Record | None:
        entry = await MemoryBucket.get(self.bucket, key)
        return records.decode(entry.value) if entry else None


async def test_what_is_new_is_written_without_being_looked_for():
    node = Node()
    node.publish(registered(1))
    async with node.running():
        await node.written({RAG: 1})
    assert RAG not in node.bucket.looked_for


async def test_what_was_there_is_merged_with_what_is_there():
    node = Node()
    node.publish(registered(1))
    node.publish(about(InstanceUpdated, 2, instance(port=99)))
    async with node.running():
        await node.written({RAG: 2})
    assert node.materialiser.conflicts == 0


async def test_what_is_new_here_does_not_replace_what_is_newer_there():
    node = Node()
    newer = about(InstanceUpdated, 5, instance(port=99))
    record = records.record_of(
        envelope.seal(newer, node.alpha), newer, position=9, time_ms=node.clock.now_ms()
    )
    await node.bucket.put(RAG, records.encode(record))
    node.publish(registered(1))
    async with node.running():
        async with asyncio.timeout(DEADLINE_S):
            while node.materialiser.conflicts == 0:
                await asyncio.sleep(0)
        await node.written({RAG: 5})


async def test_it_rests_while_events_come_and_only_then(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(materialiser_module, "_BATCH_MAX", 1)
    node = Node()
    more = iter(range(2, 5))

    async def put(key: str, value: bytes, **options: int | None) -> int:
        if (number := next(more, None)) is not None:
            await node.replica.wait_position(node.publish(registered(number, named(number))), DEADLINE_S)
        return await MemoryBucket.put(node.bucket, key, value, **options)

    monkeypatch.setattr(node.bucket, "put", put)
    node.publish(registered(1))
    async with node.running():
        await node.written({RAG: 1} | {f"service.more-{n}.alpha.1": n for n in range(2, 5)})
    assert node.clock.rests == [materialiser_module._REST_S] * 3


async def test_it_does_not_rest_while_many_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(materialiser_module, "_BATCH_MAX", 1)
    monkeypatch.setattr(materialiser_module, "_LAG_MAX", 0)
    node = Node()
    node.publish(registered(1))
    async with node.running():
        await node.written({RAG: 1})
        node.publish(registered(2, named(2)))
        await node.written({"service.more-2.alpha.1": 2})
    assert node.clock.rests == []


def named(number: int) -> Instance:
    return instance(f"more-{number}")
