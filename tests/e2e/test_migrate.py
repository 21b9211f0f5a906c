"""`pmoves-mesh migrate` where the old registry's stream is in the way of a real agent's start."""

from __future__ import annotations

import json
from collections.abc import Callable

import nats
import pytest
from hosts import Host
from nats_server import NatsServer

PAYLOAD = {"type": "registered", "service": "rag", "data": {"name": "rag", "host": "rag", "port": 8086}}


async def make_old_stream(url: str) -> None:
    client = await nats.connect(url)
    jetstream = client.jetstream()
    await jetstream.add_stream(name="service_registry", subjects=["service.registry.>"])
    await jetstream.publish("service.registry.registered", json.dumps(PAYLOAD).encode())
    await client.close()


@pytest.fixture
async def blocked(nats_server: NatsServer, new_host: Callable[..., Host]) -> Host:
    """A host whose NATS has the stream of the old registry."""
    await make_old_stream(nats_server.url)
    return new_host("new", settings={"NATS_URL": nats_server.url})


async def test_the_start_names_the_stream_in_the_way_and_migrate_makes_room(blocked: Host):
    refused = blocked.run("up")
    assert refused.returncode == 1
    assert "service_registry" in refused.stderr
    assert "pmoves-mesh migrate service_registry" in refused.stderr
    assert "Traceback" not in refused.stderr + blocked.log

    unanswered = blocked.run("migrate")
    assert "will be deleted" in unanswered.stdout
    assert blocked.run("up").returncode == 1, "it must not be changed before somebody said yes"

    done = blocked.run("migrate", "service_registry", "--yes")
    assert done.returncode == 0, done.stderr
    saved = blocked.directory / "data" / "migrated-service_registry.jsonl"
    assert [json.loads(line) for line in saved.read_text().splitlines()] == [PAYLOAD]
    blocked.up()
    assert "no stream is in the way" in blocked.run("migrate").stdout
