"""`GET /api/prometheus/sd`: the complete list of targets, or none at all."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from builders import deregistered, instance, left, lost, registered
from http_support import DEADLINE_S, NODE, Served, served

PATH = "/api/prometheus/sd"
LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as here:
        yield here


async def targets(mesh: Served) -> dict[str, dict[str, str]]:
    """Returns the labels of each target, by its address."""
    answer = await mesh.get(PATH)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    found: list[dict[str, Any]] = answer.body
    assert all(set(group) == {"targets", "labels"} and len(group["targets"]) == 1 for group in found)
    return {group["targets"][0]: group["labels"] for group in found}


async def test_a_target_has_labels_for_whatever_is_known_of_it(mesh: Served):
    record = instance(
        "whisper",
        "beta",
        "main",
        host="10.0.0.7",
        port=9000,
        mode="standalone",
        ports={"grpc": 9001},
        health_status="healthy",
        capabilities=("stt", "cuda:12.8"),
        metadata={"tier": "gpu", "team-name": "speech", "replicas": 2, "tls": True, "owner": None, "of": [1]},
    )
    await mesh.tell(registered(1, record))
    assert (await targets(mesh)) == {
        "10.0.0.7:9000": {
            "__meta_pmoves_mesh": "pmoves-mesh",
            "__meta_pmoves_service": "whisper",
            "__meta_pmoves_id": "main",
            "__meta_pmoves_node": "beta",
            "__meta_pmoves_node_status": "alive",
            "__meta_pmoves_host": "10.0.0.7",
            "__meta_pmoves_port": "9000",
            "__meta_pmoves_mode": "standalone",
            "__meta_pmoves_health": "healthy",
            "__meta_pmoves_maintenance": "false",
            "__meta_pmoves_verified": "true",
            "__meta_pmoves_capabilities": ",stt,cuda:12.8,",
            "__meta_pmoves_capability_stt": "true",
            "__meta_pmoves_capability_cuda_12_8": "true",
            "__meta_pmoves_port_grpc": "9001",
            "__meta_pmoves_metadata_tier": "gpu",
            "__meta_pmoves_metadata_team_name": "speech",
            "__meta_pmoves_metadata_replicas": "2",
            "__meta_pmoves_metadata_tls": "true",
            "__meta_pmoves_metadata_owner": "",
            "__meta_pmoves_metadata_of": "[1]",
        }
    }


async def test_the_port_named_metrics_is_the_one_that_is_scraped(mesh: Served):
    await mesh.tell(
        registered(1, instance("rag", "beta", host="::1", port=9000, ports={"metrics": 9100})),
        registered(2, instance("worker", "beta", host="10.0.0.7", ports={"metrics": 9101})),
        registered(3, instance("idle", "beta", host="10.0.0.8")),
    )
    assert set(await targets(mesh)) == {"[::1]:9100", "10.0.0.7:9101"}


async def test_what_is_sick_or_lost_stays_a_target_and_what_left_or_is_gone_does_not(mesh: Served):
    await mesh.tell(
        registered(1, instance("rag", "beta", port=1, health_status="unhealthy", maintenance=True)),
        registered(1, instance("rag", "gamma", port=1)),
        registered(1, instance("rag", "delta", port=1)),
        left(2, "delta"),
    )
    loss = lost(1, "gamma", NODE)
    await mesh.replica.wait_position(mesh.publish(loss, by=loss.witness), DEADLINE_S)
    found = await targets(mesh)
    assert set(found) == {"beta.example:1", "gamma.example:1"}
    assert found["beta.example:1"]["__meta_pmoves_health"] == "unhealthy"
    assert found["beta.example:1"]["__meta_pmoves_maintenance"] == "true"
    assert found["gamma.example:1"]["__meta_pmoves_node_status"] == "lost"
    await mesh.tell(deregistered(2, instance("rag", "beta")))
    assert set(await targets(mesh)) == {"gamma.example:1"}


async def test_a_mesh_without_services_has_no_targets(mesh: Served):
    assert (await mesh.get(PATH)).body == []


async def test_a_replica_that_has_not_seen_the_mesh_gives_no_list_however_much_it_knows(tmp_path: Path):
    async with served(tmp_path, connected=False) as alone:
        assert (await alone.get(PATH)).status == 503
        await alone.register("/api/services?wait=none", name="rag", port=9000)
        answer = await alone.get(PATH)
        assert answer.status == 503
        assert "Retry-After" in answer.headers


async def test_a_replica_that_lost_the_mesh_gives_what_it_knows_but_never_nothing(mesh: Served):
    mesh.client.disconnect()
    await mesh.is_not_current()
    assert (await mesh.get(PATH)).status == 503
    await mesh.register("/api/services?wait=none", name="rag", port=9000)
    assert set(await targets(mesh)) == {"10.0.0.1:9000"}


async def test_a_long_list_is_complete_and_every_label_has_a_name_that_prometheus_takes(mesh: Served):
    await mesh.tell(
        *(
            registered(n, instance(f"service-{n % 7}", "beta", str(n), port=n, metadata={"ä b": 1, "": 2}))
            for n in range(1, 601)
        )
    )
    found = await targets(mesh)
    assert len(found) == 600
    assert all(LABEL.fullmatch(name) for labels in found.values() for name in labels)
    again = await mesh.get(PATH)
    assert len(again.body) == 600
