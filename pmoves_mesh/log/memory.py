"""The log without NATS: the same promises, and faults on demand, the same ones for the same seed.

    broker = MemoryBroker(clock)
    client = MemoryClient(broker, random.Random(seed), Faults(drop=0.01))
    client.disconnect()

A simulation drives it in virtual time; contract tests hold it to what the real server does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.errors import LogUnavailable, SequenceConflict, SequenceGap
from pmoves_mesh.log.memory_broker import MemoryBroker, MemoryConsumer
from pmoves_mesh.ports import BucketEntry, LogBounds, LogMessage, TailBatch

__all__ = [
    "Faults",
    "MemoryBroker",
    "MemoryBucket",
    "MemoryClient",
    "MemoryDelivery",
    "MemoryLog",
    "MemoryWorkQueue",
]

_REQUEST_TIMEOUT_S: Final = 2.0
_BATCH_MAX: Final = 500
_AWAY: Final = TailBatch(messages=(), pending=None)

T = TypeVar("T")


@dataclass(kw_only=True)
class Faults:
    """What goes wrong between one client and the broker; may be changed at any time.

    Attributes:
        drop: probability, 0 to 1, that a request is lost, and again that its answer is.
        duplicate: probability that a request arrives twice.
        delay_max_s: each way takes between 0 and this many seconds, so requests overtake each other.
        reorder: probability that the messages of a fetch come in another order.
    """

    drop: float = 0.0
    duplicate: float = 0.0
    delay_max_s: float = 0.0
    reorder: float = 0.0


class MemoryClient:
    """One agent's connection to the broker.

    Attributes:
        faults: in force now.
    """

    def __init__(self, broker: MemoryBroker, rng: random.Random, faults: Faults | None = None) -> None:
        self.broker: Final = broker
        self.faults = faults or Faults()
        self._rng = rng
        self._connected = True
        self._epoch = 0

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached."""
        return self._connected

    @property
    def epoch(self) -> int:
        """Grows with every loss of the connection."""
        return self._epoch

    def disconnect(self) -> None:
        """Breaks the connection: what is under way fails."""
        if self._connected:
            self._connected = False
            self._epoch += 1
            self.broker.wake()

    def reconnect(self) -> None:
        """Makes the connection again."""
        self._connected = True
        self.broker.wake()

    def holds(self, epoch: int) -> bool:
        """Returns whether the connection is up and has been since `epoch`."""
        return self._connected and epoch == self._epoch

    def check(self, epoch: int | None = None) -> None:
        """Returns if the connection holds.

        Raises:
            LogUnavailable: if it does not, or was lost since `epoch`.
        """
        if not self.holds(self._epoch if epoch is None else epoch):
            raise LogUnavailable("not connected to the broker")

    def happens(self, probability: float) -> bool:
        """Throws the dice."""
        return probability > 0 and self._rng.random() < probability

    def shuffle(self, messages: list[LogMessage]) -> None:
        """Puts messages into another order."""
        self._rng.shuffle(messages)

    async def travel(self) -> None:
        """Takes the time of one way."""
        if self.faults.delay_max_s > 0:
            await self.broker.clock.sleep(self._rng.uniform(0, self.faults.delay_max_s))

    async def wait(self, event: asyncio.Event, seconds: float) -> None:
        """Waits for an event, at most `seconds`."""
        sleeper = asyncio.ensure_future(self.broker.clock.sleep(seconds))
        sleeper.add_done_callback(lambda ended: None if ended.cancelled() else event.set())
        try:
            await event.wait()
        finally:
            sleeper.cancel()

    async def request(self, operation: Callable[[], T]) -> T:
        """Has the broker do something, through the faults, and returns what it answers.

        Raises:
            LogUnavailable: if the request or its answer is lost, or the connection is.
        """
        self.check()
        epoch = self._epoch
        await self.travel()
        await self._maybe_lose(epoch)
        answer = operation()
        if self.happens(self.faults.duplicate):
            with suppress(SequenceConflict):
                operation()
        await self.travel()
        await self._maybe_lose(epoch)
        return answer

    async def _maybe_lose(self, epoch: int) -> None:
        if self.happens(self.faults.drop):
            await self.broker.clock.sleep(_REQUEST_TIMEOUT_S)
            raise LogUnavailable(f"no answer within {_REQUEST_TIMEOUT_S:g} s")
        self.check(epoch)


class MemoryLog:
    """The stream; implements `ports.EventLog`."""

    def __init__(self, client: MemoryClient) -> None:
        self._client = client

    @property
    def connected(self) -> bool:
        """Whether the log can be reached at this moment."""
        return self._client.connected

    async def publish(self, sealed: SealedEvent, *, ttl_s: int | None = None) -> int:
        """Appends an event, once however often it is called, and returns its position.

        Raises:
            LogUnavailable: if no acknowledgement came. The event may still be in the stream.
        """
        return await self._client.request(lambda: self._client.broker.publish(sealed, ttl_s))

    async def bounds(self) -> LogBounds:
        """Returns which positions the stream holds.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        return await self._client.request(self._client.broker.bounds)

    async def tail(self, after: int) -> AsyncGenerator[TailBatch, None]:
        """Yields every event with a position above `after`, in order, each once, without end.

        Raises:
            SequenceGap: if the stream ends before what was yielded, or was made anew.
        """
        client, broker = self._client, self._client.broker
        position, stream_id, fresh, made = after, "", True, broker.made
        with broker.listener() as news:
            while True:
                news.clear()
                if not client.connected:
                    yield _AWAY
                    fresh = True
                    await news.wait()
                    continue
                epoch, bounds = client.epoch, broker.bounds()
                if bounds.last < position or stream_id not in {"", bounds.stream_id}:
                    raise SequenceGap(position, bounds.first)
                stream_id = bounds.stream_id
                if broker.made != made:
                    made, fresh = broker.made, True
                    yield _AWAY  # what delivered to it went with the stream
                    continue
                messages, pending = broker.after(position, _BATCH_MAX)
                if not messages and not fresh:
                    await news.wait()
                    continue
                await client.travel()
                if client.holds(epoch):
                    fresh = False
                    position = messages[-1].position if messages else position
                    yield TailBatch(messages=messages, pending=pending)


class MemoryBucket:
    """One bucket; implements `ports.Bucket`. Methods raise `LogUnavailable` if it cannot be reached."""

    def __init__(self, client: MemoryClient, name: str) -> None:
        self._client = client
        self._broker = client.broker
        self._name = name

    async def get(self, key: str) -> BucketEntry | None:
        """Returns the latest value of a key, or None if it has none."""
        return await self._client.request(lambda: self._broker.get(self._name, key))

    async def put(
        self, key: str, value: bytes, *, expected: int | None = None, ttl_s: int | None = None
    ) -> int:
        """Writes a key and returns its new revision; see `ports.Bucket.put`.

        Raises:
            SequenceConflict: if the key has another revision than `expected`.
        """
        return await self._client.request(
            lambda: self._broker.put(self._name, key, value, expected=expected, ttl_s=ttl_s)
        )

    async def delete(self, key: str, *, expected: int | None = None) -> None:
        """Removes a key, if it is there; see `ports.Bucket.delete`.

        Raises:
            SequenceConflict: if the key has another revision than `expected`.
        """
        await self._client.request(lambda: self._broker.delete(self._name, key, expected=expected))

    async def keys(self, pattern: str = ">") -> list[str]:
        """Returns the keys that match a NATS subject pattern."""
        return [entry.key async for entry in self.load(pattern)]

    async def load(self, pattern: str = ">") -> AsyncIterator[BucketEntry]:
        """Yields the latest value of every key that matches `pattern`, once, then ends."""
        epoch = self._client.epoch
        for entry in await self._client.request(lambda: self._broker.scan(self._name, pattern)):
            self._client.check(epoch)
            yield entry


class MemoryDelivery:
    """A message that this worker alone was handed; implements `ports.Delivery`."""

    def __init__(self, client: MemoryClient, consumer: MemoryConsumer, message: LogMessage) -> None:
        self._client = client
        self._consumer = consumer
        self._epoch = client.epoch
        self._message = message

    @property
    def message(self) -> LogMessage:
        """The event."""
        return self._message

    async def ack(self) -> None:
        """Says that the work is done. An acknowledgement that gets lost means: handed out again.

        Raises:
            LogUnavailable: if the connection was lost since the message was handed out.
        """
        self._client.check(self._epoch)
        if not self._client.happens(self._client.faults.drop):
            self._consumer.ack(self._message.position)

    async def working(self) -> None:
        """Says that the work goes on, so that the message is not handed out again yet.

        Raises:
            LogUnavailable: if the connection was lost since the message was handed out.
        """
        self._client.check(self._epoch)
        if not self._client.happens(self._client.faults.drop):
            self._consumer.working(self._message.position)


class MemoryWorkQueue:
    """A shared consumer; implements `ports.WorkQueue`.

    It hands out the stream's events, or, of a bucket that is named, the markers of its keys that ran out.
    """

    def __init__(self, client: MemoryClient, bucket: str = "") -> None:
        self._client = client
        self._bucket = bucket
        self._consumer = client.broker.expiries(bucket) if bucket else client.broker.consumer

    async def fetch(self, count_max: int, timeout_s: float) -> Sequence[MemoryDelivery]:
        """Returns what there is, up to `count_max`; with nothing there, the first within `timeout_s`.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        client, broker, consumer = self._client, self._client.broker, self._consumer
        deadline = broker.clock.monotonic_s() + timeout_s
        with consumer.pull() as news:
            while True:
                news.clear()
                due_s = broker.run_out(self._bucket) if self._bucket else 3600.0
                messages = await client.request(lambda: consumer.hand_out(count_max))
                left = deadline - broker.clock.monotonic_s()
                if messages or left <= 0:
                    break
                await client.wait(news, min(left, due_s, consumer.overdue_in_s()))
        if client.happens(client.faults.reorder):
            client.shuffle(messages)
        return [MemoryDelivery(client, consumer, message) for message in messages]

    async def floor(self) -> int:
        """Returns the position up to which every event was acknowledged.

        Raises:
            LogUnavailable: if the log cannot be reached.
        """
        return await self._client.request(self._consumer.floor)
