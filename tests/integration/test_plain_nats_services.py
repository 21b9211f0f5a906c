"""Services that speak NATS and JSON only, and programs of today's PMOVES, in a mesh that accepts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from agents import DEADLINE_S, AgentProcess, Mesh, eventually, mesh_in
from nats.aio.subscription import Subscription
from plain_nats import ANNOUNCE, events_of, plain_client

RECORD_FIELDS = {
    *("name", "host", "port", "mode", "capabilities", "health_url", "health_status"),
    *("last_seen", "registered_at", "metadata"),
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.started("alpha", PMOVES_UNSIGNED="accept")
        mesh.started("beta", PMOVES_UNSIGNED="accept")
        yield mesh


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.agents["alpha"]


@pytest.fixture
def beta(mesh: Mesh) -> AgentProcess:
    return mesh.agents["beta"]


async def heard(subscription: Subscription, service: str) -> tuple[str, dict[str, Any]]:
    """Returns subject and JSON of the next message about a service."""
    while True:
        message = await subscription.next_msg(timeout=DEADLINE_S)
        said = json.loads(message.data)
        if said["service"] == service:
            return message.subject, said


def check_readable(said: dict[str, Any], what: str, service: str) -> None:
    """Checks a registry event as a listener of today reads it."""
    assert (said["type"], said["service"]) == (what, service)
    assert datetime.fromisoformat(said["timestamp"]).tzinfo == UTC
    assert said["data"].keys() >= RECORD_FIELDS
    assert said["data"]["name"] == service


async def test_a_service_with_no_http_announces_itself_over_nats_and_is_found_over_http(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    announcement = {
        "type": "service.registry",
        "name": "batch-worker",
        "host": "10.0.0.9",
        "port": 7000,
        "capabilities": ["batch", "embed"],
        "ts": 1790000000,
    }
    async with plain_client(mesh.server.url) as client:
        await client.publish(ANNOUNCE, json.dumps(announcement).encode())
        await client.flush()
    for agent in (alpha, beta):
        eventually(lambda agent=agent: agent.knows("batch-worker"), "the worker is known")
        (found,) = agent.post("/api/discover", ["embed", "batch"]).body["services"]
        assert (found["name"], found["host"], found["port"]) == ("batch-worker", "10.0.0.9", 7000)
        assert (found["verified"], found["signer"]) == (False, "")


async def test_a_service_with_no_http_hears_as_plain_json_what_comes_and_goes(
    mesh: Mesh, alpha: AgentProcess
):
    async with plain_client(mesh.server.url) as client:
        subscription = await client.subscribe("service.registry.*")
        await client.flush()
        alpha.register("hi-rag", host="10.0.0.1", port=8086, capabilities=["rag"])
        subject, said = await heard(subscription, "hi-rag")
        assert subject == "service.registry.registered"
        check_readable(said, "registered", "hi-rag")
        assert (said["data"]["host"], said["data"]["port"]) == ("10.0.0.1", 8086)
        assert said["data"]["capabilities"] == ["rag"]

        alpha.register("hi-rag", host="10.0.0.1", port=8086, capabilities=["rag", "graph"])
        subject, said = await heard(subscription, "hi-rag")
        assert subject == "service.registry.updated"
        check_readable(said, "updated", "hi-rag")
        assert said["data"]["capabilities"] == ["rag", "graph"]

        alpha.delete("/api/services/hi-rag")
        last_words = dict([await heard(subscription, "hi-rag"), await heard(subscription, "hi-rag")])
        assert set(last_words) == {"service.registry.deregistered", "service.registry.unregistered"}
        check_readable(last_words["service.registry.unregistered"], "unregistered", "hi-rag")
        check_readable(last_words["service.registry.deregistered"], "deregistered", "hi-rag")


async def test_an_agents_announcement_has_every_field_that_programs_of_today_read(mesh: Mesh):
    alpha = mesh.agents["alpha"]
    alpha.register("announced", port=1)
    async with plain_client(mesh.server.url) as client:
        said = [one for one in await events_of(client, ANNOUNCE) if one.get("node") == "alpha"][-1]
    assert said["type"] == ANNOUNCE
    assert said["node"] == said["node_id"] == said["hostname"] == "alpha"
    assert said["caps"] == dict.fromkeys(said["capabilities"], True)
    assert said["resources"]["arch"] in said["capabilities"]
    assert isinstance(said["capabilities"], list)
    assert said["tailscale_ip"] is None
    assert said["mode"] == "docked"
    assert said["ts"] == pytest.approx(datetime.fromisoformat(said["timestamp"]).timestamp(), abs=1)
    assert isinstance(said["services_running"], list)
    assert isinstance(said["host"], str)
    assert said["port"] == int(alpha.url.rpartition(":")[2])


@contextmanager
def todays_agent(mesh: Mesh, registry_url: str, node: str) -> Iterator[subprocess.Popen[str]]:
    script = Path(__file__).with_name("todays_agent.py")
    settings = {
        "NATS_URL": mesh.server.url,
        "SERVICE_REGISTRY_URL": registry_url,
        "NODE_NAME": node,
        "NODE_HOST": "192.168.1.77",
        "NODE_CAPABILITIES": "gpu,cuda",
        "ANNOUNCE_SEC": "0.2",
    }
    with subprocess.Popen(
        [sys.executable, script], env={**os.environ, **settings}, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_todays_mesh_agent_works_unchanged_over_nats_and_http(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    node = "jetson-orin"
    async with plain_client(mesh.server.url) as client:
        subscription = await client.subscribe(ANNOUNCE)
        await client.flush()
        with todays_agent(mesh, beta.url, node) as process:
            rounds = 0
            while rounds < 5:
                message = await subscription.next_msg(timeout=DEADLINE_S)
                rounds += json.loads(message.data)["node"] == node
            assert process.poll() is None, process.stderr and process.stderr.read()
        events = [one for one in await events_of(client, "service.registry.*") if one["service"] == node]
    assert [one["type"] for one in events] == ["registered"]
    for agent in (alpha, beta):
        eventually(lambda agent=agent: agent.knows(node), "the service is known")
        shown = agent.get(f"/api/nodes/{node}").body
        assert (shown["host"], shown["status"], shown["verified"]) == ("192.168.1.77", "alive", False)
        assert shown["capabilities"] == ["gpu", "cuda"]
        service = agent.get(f"/api/services/{node}").body
        assert (service["port"], service["node"], service["verified"]) == (0, "beta", True)
        assert agent.post("/api/discover", {"capabilities": ["cuda"]}).body["count"] == 1
        assert agent.registry["rejections"] == []
