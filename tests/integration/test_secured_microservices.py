"""NATS microservices in a secured mesh, where each logs in with its own certificate."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import nats.errors
import pytest
from agents import eventually
from nats.aio.client import Client
from nats.micro import ServiceConfig, add_service
from secured_host import MESH, SecuredHost

from pmoves_mesh.core.names import server_name_of
from pmoves_mesh.tls import client_context

FOUND_S = 20.0


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredHost]:
    with SecuredHost(tmp_path_factory.mktemp("secured")) as main:
        yield main.ready()


async def connected(url: str, context: ssl.SSLContext) -> Client:
    """Connects as soon as the server knows the certificate, which was issued a moment ago."""
    async with asyncio.timeout(FOUND_S):
        while True:
            client = Client()
            try:
                await client.connect(
                    url, tls=context, tls_hostname=server_name_of(MESH), allow_reconnect=False
                )
                await client.flush(timeout=2)
            except (OSError, nats.errors.Error):
                await client.close()
                await asyncio.sleep(0.05)
            else:
                return client


@asynccontextmanager
async def logged_in(main: SecuredHost, service: str) -> AsyncIterator[Client]:
    """A connection of a service that knows nats-py, and its certificate."""
    certificate, key = await asyncio.to_thread(main.certify, service)
    allow = (f"spiffe://{MESH}/node/*", f"spiffe://{MESH}/service/nats")
    context = client_context(certificate, key, main.tls_dir / "ca.crt", allow=allow)
    client = await connected(main.nats_url, context)
    try:
        yield client
    finally:
        await client.close()


async def test_the_agent_that_runs_the_server_finds_a_microservice_and_lets_it_go(main: SecuredHost):
    async with (
        logged_in(main, "echo") as client,
        await add_service(client, ServiceConfig(name="echo", version="1.0.0")) as service,
    ):
        await asyncio.to_thread(
            eventually,
            lambda: (
                [one["health_status"] for one in main.get("/api/services/echo").body.get("instances", [])]
                == ["healthy"]
            ),
            "the microservice is found",
            FOUND_S,
        )
        found = main.get("/api/services/echo").body
        assert (found["id"], found["node"], found["verified"]) == (service.id, "main", True)
    await asyncio.to_thread(eventually, lambda: not main.knows("echo"), "it is gone", FOUND_S)


async def test_a_service_is_answered_in_its_inbox_and_can_send_no_answer_elsewhere(main: SecuredHost):
    main.register("whisper", port=9000)
    async with logged_in(main, "curious") as client:
        answer = await client.request("$SRV.PING.whisper", b"", timeout=5)
        assert json.loads(answer.data)["id"] == "main-9000"
        for place in ("_INBOX.node.main.x", "$JS.API.STREAM.DELETE.MESH_EVENTS", "$KV.MESH_LEASES.main"):
            await client.publish("$SRV.PING.whisper", b"", place)
        again = await client.request("$SRV.STATS.whisper.main-9000", b"", timeout=5)
        assert json.loads(again.data)["endpoints"] == []
    assert main.is_ready()
    assert main.registry["current"]
