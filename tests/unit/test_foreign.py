"""The unsigned shapes in the field: each becomes a known node, and what has a port a service too."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import MESH

from pmoves_mesh.core import foreign
from pmoves_mesh.core.event import (
    Event,
    InstanceDeregistered,
    InstanceRegistered,
    NodeAnnounced,
    NodeLeft,
)
from pmoves_mesh.errors import EventTooLarge, MalformedEvent, UnknownKind

ANNOUNCE = "mesh.node.announce.v1"
REGISTERED = "service.registry.registered"


def read(body: Any, subject: str = ANNOUNCE) -> tuple[Event, ...]:
    return foreign.read(subject, json.dumps(body).encode(), mesh=MESH, position=42)


def node_of(body: dict[str, Any]) -> NodeAnnounced:
    first = read(body)[0]
    assert isinstance(first, NodeAnnounced)
    return first


def test_the_mesh_agents_announcement_is_a_node():
    node = node_of(
        {
            "type": ANNOUNCE,
            "node": "jetson-1",
            "caps": {"gpu": True, "rag": False, "tts": True},
            "host": "192.168.1.5",
            "tailscale_ip": "100.64.0.7",
            "mode": "standalone",
            "ts": 1700000000,
        }
    )
    assert (node.mesh, node.node, node.stamp) == (MESH, "jetson-1", (0, 42))
    assert node.capabilities == ("gpu", "tts")
    assert node.caps == {"gpu": True, "tts": True}
    assert (node.host, node.tailscale_ip, node.mode) == ("100.64.0.7", "100.64.0.7", "standalone")


def test_an_agent_without_tailscale_is_found_at_its_host():
    assert node_of({"node": "a", "host": "192.168.1.5", "tailscale_ip": None}).host == "192.168.1.5"


def test_the_registrys_announcement_is_a_node_and_the_service_it_is():
    body = {
        "type": "service.registry",
        "name": "Hi RAG",
        "host": "10.0.0.2",
        "port": 8086,
        "capabilities": ["rag", "search"],
        "ts": 1700000000.5,
    }
    node, service = read(body)
    assert isinstance(node, NodeAnnounced)
    assert isinstance(service, InstanceRegistered)
    assert (node.node, node.port) == ("hi-rag", 8086)
    assert service.data.key == ("hi-rag", "hi-rag", "8086")
    assert (service.data.host, service.data.port) == ("10.0.0.2", 8086)
    assert service.data.capabilities == ("rag", "search")
    assert service.stamp == (0, 42)


def test_an_announcement_with_port_0_is_a_node_only():
    assert len(read({"type": "service.registry", "name": "agent", "host": "h", "port": 0})) == 1


def test_the_documented_contract_is_a_node_with_resources():
    node = node_of(
        {
            "node_id": "gpu-box-01",
            "hostname": "gpu-box",
            "capabilities": {"gpu": True, "gpu_count": 2, "cpu_cores": 32, "memory_gb": 128.5},
            "services_running": ["ollama", "whisper"],
            "timestamp": "2026-01-01T00:00:00Z",
        }
    )
    assert (node.node, node.node_id, node.hostname) == ("gpu-box-01", "gpu-box-01", "gpu-box")
    assert node.host == "gpu-box"
    assert node.capabilities == ("gpu",)
    assert node.resources == {"gpu_count": 2, "cpu_cores": 32, "memory_gb": 128.5}
    assert node.services_running == ("ollama", "whisper")


def test_a_gpu_hosts_announcement_is_a_node_with_its_load():
    node = node_of(
        {
            "node_id": "rtx5090",
            "capabilities": ["gpu:rtx5090", "vram:32gb", "cuda:12.8"],
            "services": ["comfyui"],
            "load": 0.25,
        }
    )
    assert node.capabilities == ("gpu:rtx5090", "vram:32gb", "cuda:12.8")
    assert node.services_running == ("comfyui",)
    assert node.resources == {"load": 0.25}
    assert node.host == "rtx5090"


def test_the_bootstrap_scripts_announcement_is_a_node():
    node = node_of({"node_id": "VPS.example", "profile": "edge", "status": "online", "ts": 1700000000})
    assert (node.node, node.node_id, node.host) == ("vps-example", "VPS.example", "vps-example")
    assert (node.port, node.mode, node.capabilities) == (0, "docked", ())


@pytest.mark.parametrize("subject", ["mesh.node.offline.v1", "mesh.node.leave.v1"])
def test_a_node_that_says_it_goes_offline_leaves(subject: str):
    (event,) = read({"node_id": "Jetson 1"}, subject)
    assert event == NodeLeft(mesh=MESH, node="jetson-1", incarnation=0, revision=42)


RECORD = {
    "name": "hi-rag",
    "host": "10.0.0.2",
    "port": "8086",
    "mode": "standalone",
    "capabilities": ["rag"],
    "health_url": "http://10.0.0.2:8086/healthz",
    "health_status": "healthy",
    "registered_at": "2026-01-01T00:00:00Z",
    "metadata": {"tier": "api"},
}


@pytest.mark.parametrize("word", ["registered", "updated", "health", "maintenance"])
def test_the_present_registrys_events_state_an_instance(word: str):
    (event,) = read({"type": word, "service": "hi-rag", "data": RECORD}, f"service.registry.{word}")
    assert isinstance(event, InstanceRegistered)
    record = event.data
    assert record.key == ("hi-rag", "10-0-0-2", "8086")
    assert (event.node, event.service) == ("10-0-0-2", "hi-rag")
    assert (record.host, record.port, record.mode) == ("10.0.0.2", 8086, "standalone")
    assert (record.health_status, record.health_url) == ("healthy", "http://10.0.0.2:8086/healthz")
    assert (record.metadata, record.registered_at) == ({"tier": "api"}, "2026-01-01T00:00:00Z")


@pytest.mark.parametrize("word", ["deregistered", "unregistered"])
def test_the_present_registrys_removals_remove_the_same_instance(word: str):
    (event,) = read({"type": word, "service": "hi-rag", "data": RECORD}, f"service.registry.{word}")
    assert isinstance(event, InstanceDeregistered)
    assert event.key == ("hi-rag", "10-0-0-2", "8086")


@pytest.mark.parametrize(
    ("data", "node", "host"),
    [
        ({"name": "a", "node": "Main"}, "main", "main"),
        ({"name": "a", "host": "h.example"}, "h-example", "h.example"),
        ({"name": "a"}, "a", "a"),
        ({"host": "h"}, "h", "h"),
    ],
)
def test_an_instances_node_is_the_host_it_names(data: dict[str, Any], node: str, host: str):
    (event,) = read({"service": "a", "data": data}, REGISTERED)
    assert isinstance(event, InstanceRegistered)
    assert (event.data.name, event.node, event.data.host, event.data.id) == ("a", node, host, "0")


@pytest.mark.parametrize("status", ["unhealthy", "healthy"])
def test_a_health_status_is_kept_where_it_is_one(status: str):
    (event,) = read({"data": {"name": "a", "health_status": status}}, REGISTERED)
    assert isinstance(event, InstanceRegistered)
    assert event.data.health_status == status


@pytest.mark.parametrize("status", [None, "odd", {}, ["healthy"], 1])
def test_any_other_health_status_is_unknown(status: object):
    (event,) = read({"data": {"name": "a", "health_status": status, "metadata": []}}, REGISTERED)
    assert isinstance(event, InstanceRegistered)
    assert (event.data.health_status, event.data.health_url, event.data.metadata) == ("unknown", None, {})


def test_what_is_no_capability_is_passed_over():
    names = ["ok", " ok ", "", "é", 7, "x" * 80, *(f"c{number}" for number in range(80))]
    node = node_of({"node": "a", "capabilities": names, "caps": ["more"], "services": "x", "load": True})
    assert node.capabilities[:3] == ("ok", "x" * 64, "c0")
    assert len(node.capabilities) == 64
    assert node.services_running == ()
    assert node.resources == {}


@pytest.mark.parametrize("port", [65536, -1, "99999", "-1", "x", "123456", "²", True, 1.5, [], 10**400])
def test_a_port_out_of_bounds_is_malformed(port: object):
    with pytest.raises(MalformedEvent):
        read({"node": "a", "port": port})


@pytest.mark.parametrize(
    ("subject", "body", "field"),
    [
        (ANNOUNCE, {}, "node"),
        (ANNOUNCE, {"node": "", "node_id": 7}, "node"),
        (ANNOUNCE, {"node": "___"}, "node"),
        (ANNOUNCE, {"node": "a", "host": "http://x"}, "host"),
        (ANNOUNCE, {"node": "a", "port": 70000}, "port"),
        (ANNOUNCE, {"node": "a", "capabilities": {"huge": 2**70}}, "capabilities"),
        (ANNOUNCE, [], "payload"),
        ("mesh.node.offline.v1", {}, "node"),
        (REGISTERED, {"service": "a"}, "data"),
        (REGISTERED, {"data": []}, "data"),
        (REGISTERED, {"data": {}}, "data.name"),
        (REGISTERED, {"data": {"name": "a", "metadata": {"k": "x" * 20000}}}, "data.metadata"),
        (REGISTERED, {"data": {"name": "a", "metadata": {"k": 2**64}}}, "data.metadata"),
    ],
)
def test_what_is_none_of_the_shapes_is_malformed_and_the_field_named(subject: str, body: Any, field: str):
    with pytest.raises(MalformedEvent) as refused:
        read(body, subject)
    assert refused.value.field == field


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 100_000, b'{"node":"\xff"}'])
def test_what_is_not_json_is_malformed(payload: bytes):
    with pytest.raises(MalformedEvent, match="payload"):
        foreign.read(ANNOUNCE, payload, mesh=MESH, position=1)


def test_a_payload_larger_than_an_event_is_too_large():
    with pytest.raises(EventTooLarge):
        foreign.read(ANNOUNCE, b" " * (256 * 1024 + 1), mesh=MESH, position=1)


@pytest.mark.parametrize(
    "subject",
    ["mesh.node.lost.v1", "mesh.trust.revoked.v1", "service.registry.evicted", "registered", "mesh.gpu.x"],
)
def test_nothing_unsigned_is_read_on_other_subjects(subject: str):
    with pytest.raises(UnknownKind):
        read({"node": "a", "data": {"name": "a"}}, subject)
