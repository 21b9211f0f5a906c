"""`GET /metrics` over HTTP: the formats, the headers, and an agent that measures nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import instance, registered
from event_reader import watching
from http_support import HOST, NODE, PinnedClock, Served, served
from prometheus_client.parser import text_string_to_metric_families

from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.inventory import inventory
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.latencies import Latencies
from pmoves_mesh.views.metrics import Metrics

OPEN = "application/openmetrics-text"


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    """A node whose agent measures, with the certificates of a mesh of its own."""
    tls_dir, data_dir = tmp_path / "tls", tmp_path / "data"
    now_ms = PinnedClock().now_ms()
    keystore.init(tls_dir, "lab", NODE, [], now_ms)
    async with served(tmp_path) as here:
        metrics = Metrics(
            here.replica,
            PinnedClock(),
            node=NODE,
            outbox_depth=lambda: here.store.outbox_depth,
            certificates=lambda: inventory(tls_dir, data_dir),
            readers=here.facade.readers,
        )
        await here.tell(registered(1, instance("whisper", "beta", health_status="healthy")))
        async with serving(
            replace(here.facade, metrics=metrics.render, observe=Latencies(metrics.registry).http), HOST, 0
        ) as here.port:
            yield here


async def scrape(mesh: Served, **headers: str) -> tuple[int, Any, str]:
    async with mesh.session.get(f"http://{HOST}:{mesh.port}/metrics", headers=headers) as response:
        return response.status, response.headers, await response.text()


async def test_prometheus_reads_the_registry_and_the_certificates(mesh: Served):
    status, headers, text = await scrape(mesh)
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert headers["X-Mesh-Position"] == "1"
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    healthy = [one.value for one in samples if one.labels == {"health": "healthy"}]
    assert healthy == [1]
    left_s = {
        (one.labels["kind"], one.labels["name"]): one.value
        for one in samples
        if one.name == "pmoves_mesh_certificate_seconds_left"
    }
    assert len(left_s) == 3
    assert {("ca", "lab"), ("service", "nats")} <= set(left_s)
    assert left_s["service", "nats"] == keystore.FILE_LIFETIME_S
    assert [one.value for one in samples if one.name == "pmoves_mesh_replica_current"] == [1]
    assert [one.value for one in samples if one.name == "pmoves_mesh_replica_stale_seconds"] == [0]


async def test_a_reader_that_asks_for_open_metrics_gets_them(mesh: Served):
    status, headers, text = await scrape(mesh, Accept=f"{OPEN};version=1.0.0,text/plain;q=0.5")
    assert status == 200
    assert headers["Content-Type"].startswith(OPEN)
    assert text.endswith("# EOF\n")


async def test_metrics_without_a_view_behind_them_are_not_found(tmp_path: Path):
    async with served(tmp_path) as here:
        answer = await here.get("/metrics")
    assert answer.status == 404
    assert answer.body["detail"] == "this agent measures nothing"


async def test_the_published_description_calls_the_metrics_plain_text(mesh: Served):
    described = (await mesh.get("/openapi.json")).body["paths"]["/metrics"]["get"]
    assert set(described["responses"]["200"]["content"]) == {"text/plain"}


async def samples(mesh: Served, name: str) -> dict[tuple[str, ...], float]:
    """Returns the values of one metric, by the values of its labels in the order of their names."""
    _, _, text = await scrape(mesh)
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


async def test_every_answer_is_measured_by_its_route_and_none_by_a_path_that_somebody_made_up(mesh: Served):
    await mesh.get("/api/services/whisper")
    await mesh.get("/api/services/other")
    await mesh.get("/api/services?mode=sideways")
    await mesh.get("/no/such/route")
    await mesh.ask("PATCH", "/api/services")
    measured = await samples(mesh, "pmoves_mesh_http_request_seconds_count")
    assert measured == {
        ("GET", "/api/services/{name}", "200"): 1,
        ("GET", "/api/services/{name}", "404"): 1,
        ("GET", "/api/services", "422"): 1,
        ("GET", "none", "404"): 1,
        ("PATCH", "none", "405"): 1,
    }


async def test_whoever_waits_for_a_change_is_counted_and_not_timed(mesh: Served):
    index = (await mesh.get("/api/nodes")).headers["X-Mesh-Index"]
    await mesh.get(f"/api/nodes?index={index}&wait=10ms")
    async with watching(mesh.port) as reader:
        await reader.next()
        assert (await samples(mesh, "pmoves_mesh_watchers")) == {("events",): 1, ("polls",): 0}
    measured = await samples(mesh, "pmoves_mesh_http_request_seconds_count")
    assert {key: count for key, count in measured.items() if key[1] != "/metrics"} == {
        ("GET", "/api/nodes", "200"): 1
    }
