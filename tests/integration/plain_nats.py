"""A program that knows nats-py and JSON, and nothing of the mesh: what it can see and say."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

STREAM = "MESH_EVENTS"
ANNOUNCE = "mesh.node.announce.v1"
TIMEOUT_S = 10.0


@asynccontextmanager
async def plain_client(url: str) -> AsyncIterator[Client]:
    client = await nats.connect(url, connect_timeout=TIMEOUT_S, allow_reconnect=False)
    try:
        yield client
    finally:
        await client.close()


async def read_stream(client: Client, subject: str = ">") -> list[Msg]:
    """Returns every message of the mesh's stream on a subject, as a plain pull consumer gets them."""
    jetstream = client.jetstream(timeout=TIMEOUT_S)
    config = ConsumerConfig(
        filter_subject=subject,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        mem_storage=True,
        inactive_threshold=30.0,
    )
    consumer = await jetstream.add_consumer(STREAM, config)
    reader = await jetstream.pull_subscribe_bind(consumer.name, STREAM)
    messages: list[Msg] = []
    while pending := (await reader.consumer_info()).num_pending:
        messages += await reader.fetch(min(pending, 500), timeout=TIMEOUT_S)
    await reader.unsubscribe()
    return messages


async def events_of(client: Client, subject: str = ">") -> list[dict[str, Any]]:
    """Returns every event of the mesh's stream on a subject as the JSON that it is."""
    return [json.loads(message.data) for message in await read_stream(client, subject)]


async def publish(client: Client, subject: str, payload: bytes, headers: dict[str, str] | None = None) -> int:
    """Publishes into the mesh's stream, and returns the position once the stream has it."""
    jetstream = client.jetstream(timeout=TIMEOUT_S)
    return (await jetstream.publish(subject, payload, headers=headers, stream=STREAM)).seq
