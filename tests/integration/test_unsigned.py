"""Announcements without a signature, read by an agent that rejects them and by one that accepts them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from plain_nats import ANNOUNCE, plain_client, publish

SHAPES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mesh agent": (
        {
            "type": ANNOUNCE,
            "node": "gpu-box",
            "caps": {"gpu": True, "whisper": True, "off": False},
            "host": "192.168.1.30",
            "tailscale_ip": "100.64.0.7",
            "mode": "standalone",
            "ts": 1790000000,
        },
        {
            "name": "gpu-box",
            "host": "100.64.0.7",
            "mode": "standalone",
            "capabilities": ["gpu", "whisper"],
            "tailscale_ip": "100.64.0.7",
        },
    ),
    "registry": (
        {
            "type": "service.registry",
            "name": "Hi_RAG",
            "host": "192.168.1.31",
            "port": 8086,
            "capabilities": ["rag", "search"],
            "ts": 1790000000.5,
        },
        {
            "name": "hi-rag",
            "host": "192.168.1.31",
            "port": 8086,
            "capabilities": ["rag", "search"],
            "services": ["hi-rag"],
        },
    ),
    "documented contract": (
        {
            "node_id": "main-pc",
            "hostname": "main-pc.local",
            "capabilities": {"gpu": True, "gpu_count": 2, "cpu_cores": 32, "memory_gb": 128},
            "services_running": ["agent-zero"],
            "timestamp": "2026-09-21T12:00:00Z",
        },
        {
            "name": "main-pc",
            "capabilities": ["gpu"],
            "resources": {"gpu_count": 2, "cpu_cores": 32, "memory_gb": 128},
        },
    ),
    "GPU host": (
        {
            "node_id": "rtx",
            "capabilities": ["gpu:rtx5090", "vram:32gb", "cuda:12.8"],
            "services": ["ollama"],
            "load": 0.25,
        },
        {
            "name": "rtx",
            "capabilities": ["gpu:rtx5090", "vram:32gb", "cuda:12.8"],
            "resources": {"load": 0.25},
        },
    ),
    "bootstrap script": (
        {"node_id": "vps", "profile": "edge", "status": "online", "ts": 1790000000},
        {"name": "vps", "host": "vps", "capabilities": []},
    ),
}


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.started("strict")
        mesh.started("lenient", PMOVES_UNSIGNED="accept")
        yield mesh


@pytest.fixture
def strict(mesh: Mesh) -> AgentProcess:
    return mesh.agents["strict"]


@pytest.fixture
def lenient(mesh: Mesh) -> AgentProcess:
    return mesh.agents["lenient"]


async def say(mesh: Mesh, *said: tuple[str, dict[str, Any]]) -> None:
    """Publishes unsigned messages, and waits until every agent has read them."""
    position = 0
    async with plain_client(mesh.server.url) as client:
        for subject, body in said:
            position = await publish(client, subject, json.dumps(body).encode())
    for agent in mesh.agents.values():
        answer = agent.get("/api/services", min_position=position)
        assert answer.status == 200, answer.text


async def test_unsigned_announcements_are_rejected_by_default_counted_and_logged_once(
    mesh: Mesh, strict: AgentProcess
):
    before = strict.registry["rejected"].get("unsigned", 0)
    await say(mesh, *[(ANNOUNCE, {"node_id": "nobody", "status": "online"})] * 3)
    registry = strict.registry
    assert registry["rejected"] == {"unsigned": before + 3}
    assert registry["unsigned"] == "reject"
    assert registry["rejections"][-1]["reason"] == "unsigned"
    assert ANNOUNCE in registry["rejections"][-1]["detail"]
    assert strict.get("/api/nodes/nobody").status == 404
    assert len(strict.logged("event rejected", reason="unsigned")) == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_each_shape_in_the_field_is_a_known_node_where_unsigned_is_accepted(
    mesh: Mesh, strict: AgentProcess, lenient: AgentProcess, shape: str
):
    said, expected = SHAPES[shape]
    await say(mesh, (ANNOUNCE, said))
    answer = lenient.get(f"/api/nodes/{expected['name']}")
    assert answer.status == 200, lenient.registry["rejections"]
    expected = {"status": "alive", "verified": False, "signer": "", **expected}
    assert {field: answer.body[field] for field in expected} == expected
    assert strict.get(f"/api/nodes/{expected['name']}").status == 404
    service = lenient.get(f"/api/services/{expected['name']}")
    assert service.status == (200 if "port" in said else 404)
    if "port" in said:
        assert (service.body["port"], service.body["verified"]) == (said["port"], False)


def test_an_agent_that_accepts_unsigned_announcements_says_so(lenient: AgentProcess):
    registry = lenient.registry
    assert registry["unsigned"] == "accept"
    assert any("PMOVES_UNSIGNED=accept" in warning for warning in registry["warnings"])


async def test_unsigned_words_never_change_what_a_node_signed(mesh: Mesh, lenient: AgentProcess):
    strict = mesh.agents["strict"]
    after = strict.register("signed", host="10.0.0.1", port=80, capabilities=["real"]).position
    node = lenient.get("/api/nodes/strict", min_position=after).body
    service = lenient.get("/api/services/signed").body
    lie = {**service, "host": "6.6.6.6", "capabilities": ["forged"], "port": 80}
    del lie["instances"]
    await say(
        mesh,
        (ANNOUNCE, {"node": "strict", "host": "6.6.6.6", "port": 666, "caps": {"forged": True}}),
        ("service.registry.registered", {"type": "registered", "service": "signed", "data": lie}),
        ("service.registry.updated", {"type": "updated", "service": "signed", "data": lie}),
        ("service.registry.unregistered", {"type": "unregistered", "service": "signed", "data": lie}),
        ("service.registry.deregistered", {"type": "deregistered", "service": "signed", "data": lie}),
        ("mesh.node.leave.v1", {"node": "strict"}),
        ("mesh.node.offline.v1", {"node_id": "strict"}),
    )
    still = lenient.get("/api/nodes/strict").body
    for moving in ("last_seen", "services_detail"):
        del node[moving], still[moving]
    assert still == node
    again = lenient.get("/api/services/signed").body
    assert (again["host"], again["capabilities"]) == ("10.0.0.1", ["real"])
    assert again["verified"]
    assert lenient.post("/api/discover", ["forged"]).body["count"] == 0
    assert not lenient.get("/api/services/strict").body.get("instances")


async def test_a_node_that_begins_to_sign_replaces_what_was_said_of_it_unsigned(
    mesh: Mesh, lenient: AgentProcess
):
    await say(mesh, (ANNOUNCE, {"node": "newcomer", "host": "192.168.1.40", "port": 4000}))
    assert lenient.get("/api/nodes/newcomer").body["verified"] is False
    assert lenient.knows("newcomer")
    mesh.started("newcomer")

    def is_signed() -> bool:
        return bool(lenient.get("/api/nodes/newcomer").body["verified"])

    eventually(is_signed, "the signed announcement is there")
    shown = lenient.get("/api/nodes/newcomer").body
    assert shown["signer"] == "spiffe://pmoves-mesh/node/newcomer"
    assert shown["services"] == []
    assert not lenient.knows("newcomer")
    mesh.agents["newcomer"].terminate()


@pytest.mark.parametrize(
    "payload",
    [b"", b"not json", b"[]", b"null", b'{"type": "service.registry"}', b'{"node": ""}', b"\xff\xfe", b"["],
)
async def test_what_is_no_announcement_at_all_is_counted_as_malformed(
    mesh: Mesh, lenient: AgentProcess, payload: bytes
):
    before = lenient.registry["rejected"].get("malformed", 0)
    async with plain_client(mesh.server.url) as client:
        position = await publish(client, ANNOUNCE, payload)
    assert lenient.get("/healthz").status == 200
    assert lenient.get("/api/services", min_position=position).status == 200
    assert lenient.registry["rejected"]["malformed"] == before + 1
