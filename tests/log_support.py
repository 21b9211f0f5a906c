"""What tests around the log share: events, deadlines, reading a tail."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

from pmoves_mesh.core.envelope import SealedEvent
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.ports import LogMessage, TailBatch

MESH = "test-mesh"
CA = "ca" * 32
DEADLINE_S = 15.0

T = TypeVar("T")


def event(number: int, *, subject: str = "service.registry.updated") -> SealedEvent:
    headers = {"Nats-Msg-Id": f"event-{number}", "Mesh-Format": "1.0", "Mesh-Signer": "ab" * 32}
    return SealedEvent(subject=subject, payload=b'{"number": %d}' % number, headers=headers)


async def in_chunks(calls: Sequence[Callable[[], Awaitable[T]]], size: int = 200) -> list[T]:
    """Makes many calls, so few at a time that a slow disk confirms each within its deadline."""
    results: list[T] = []
    for begin in range(0, len(calls), size):
        results += await asyncio.gather(*(call() for call in calls[begin : begin + size]))
    return results


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = DEADLINE_S) -> None:
    """Returns once the condition holds."""
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.02)


async def read_until_current(
    tail: AsyncIterator[TailBatch], timeout_s: float = DEADLINE_S
) -> list[LogMessage]:
    """Returns what a tail yields until it says that nothing is pending."""
    messages: list[LogMessage] = []
    async with asyncio.timeout(timeout_s):
        async for batch in tail:
            messages.extend(batch.messages)
            if batch.pending == 0:
                return messages
    raise AssertionError("a tail has no end")


async def read_until(tail: AsyncIterator[TailBatch], position: int) -> list[LogMessage]:
    """Returns what a tail yields until it has reached a position."""
    messages: list[LogMessage] = []
    async with asyncio.timeout(DEADLINE_S):
        async for batch in tail:
            messages.extend(batch.messages)
            if messages and messages[-1].position >= position:
                return messages
    raise AssertionError("a tail has no end")


@contextlib.asynccontextmanager
async def connected(settings: NatsSettings) -> AsyncIterator[Connection]:
    async with Connection(settings) as connection:
        await connection.wait_connected(DEADLINE_S)
        yield connection
