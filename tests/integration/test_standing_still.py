"""A process that stood still, as on a host that slept, does not take that for the server's silence."""

from __future__ import annotations

import asyncio
import threading

import pytest
from log_support import DEADLINE_S

from pmoves_mesh.errors import LogUnavailable
from pmoves_mesh.log import consumer
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection
from pmoves_mesh.log.topology import REGISTRY

SILENCE_S = 1.5
NEW = {"deliver_policy": "new"}


def stand_still(seconds: float) -> None:
    """Keeps the loop from everything, as a host does that sleeps."""
    threading.Event().wait(seconds)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer, "_SILENCE_MAX_S", SILENCE_S)


async def test_what_the_server_sent_meanwhile_is_read_first(connection: Connection):
    async with consumer.push_consumer(connection.session(), f"KV_{REGISTRY}", NEW) as following:
        taking = asyncio.create_task(following.take(1))
        await NatsBucket(connection, REGISTRY).get("nothing")  # by then it waits
        stand_still(SILENCE_S + 0.1)
        await NatsBucket(connection, REGISTRY).put("node.alpha", b"1")
        async with asyncio.timeout(DEADLINE_S):
            ((message, _),) = await taking
    assert message.data == b"1"


async def test_a_server_that_is_silent_is_given_up_all_the_same(connection: Connection):
    quiet = {**NEW, "idle_heartbeat": 60 * 10**9}
    async with consumer.push_consumer(connection.session(), f"KV_{REGISTRY}", quiet) as following:
        with pytest.raises(LogUnavailable, match="sent nothing"):
            async with asyncio.timeout(DEADLINE_S):
                await following.take(1)
