"""A standalone node: complete alone, and one of the mesh while the hub can be reached."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from plain_nats import events_of, plain_client
from ports import free_port

from pmoves_mesh.config import load

ROUTES = (
    "/",
    "/api/services",
    "/api/services/kept",
    "/api/services/nobody-has-this",
    "/api/status",
    "/api/nodes",
    "/api/nodes/edge",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
)
CHANGES = 300


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as mesh:
        mesh.started("centre", ANNOUNCE_SEC="1")
        yield mesh


def standalone(mesh: Mesh, **settings: str) -> AgentProcess:
    """Returns a standalone node that knows where the hub is."""
    return mesh.agent(
        "edge",
        SERVICE_MODE="standalone",
        NATS_URL="",
        NATS_EXTERNAL_URL=mesh.server.url,
        ANNOUNCE_SEC="1",
        **settings,
    )


def test_a_standalone_node_without_a_hub_runs_its_own_server_and_is_complete_alone(tmp_path: Path):
    alone = AgentProcess(tmp_path, "alone", "", SERVICE_MODE="standalone", PMOVES_NATS_PORT=str(free_port()))
    with alone:
        alone.ready()
        assert alone.register("whisper", port=9000, capabilities=["stt"]).status == 200
        assert alone.post("/api/discover", ["stt"]).body["count"] == 1
        assert alone.registry["mode"] == "standalone"
        assert alone.run("bucket", "check").returncode == 0
        alone.terminate()
        alone.restart()
        eventually(lambda: alone.knows("whisper"), "it is found again")
        alone.terminate()


def spend_a_day(edge: AgentProcess, part: str) -> dict[str, int]:
    """Registers, changes and removes as much as a day brings; returns the port of each that is left."""
    left: dict[str, int] = {}
    for number in range(CHANGES):
        name = f"{part}-{number % 50}"
        if number % 7 == 6 and name in left:
            assert edge.delete(f"/api/services/{name}").status in {200, 202}
            del left[name]
        else:
            edge.register(name, port=number + 1, id="one")
            left[name] = number + 1
    return left


async def test_a_day_without_the_hub_is_spent_alone_and_told_in_order_once_when_it_returns(mesh: Mesh):
    edge, centre = standalone(mesh).start().ready(), mesh.agents["centre"]
    edge.register("kept", port=1)
    centre.register("of-the-centre", port=2)
    mesh.agree()
    edge.terminate()
    edge.restart()
    mesh.server.kill()
    eventually(lambda: not edge.is_ready(), "it notices")
    ports = {"kept": 1, "of-the-centre": 2, **spend_a_day(edge, "morning")}
    edge.kill()
    edge.start()
    assert {one["name"]: one["port"] for one in edge.get("/api/services").body["services"]} == ports
    ports |= spend_a_day(edge, "evening")
    assert {one["name"]: one["port"] for one in edge.get("/api/services").body["services"]} == ports
    assert edge.get("/healthz").status == 200
    assert edge.get("/readyz").status == 503
    mesh.server.start()
    edge.ready()
    mesh.agree()
    assert {one["name"]: one["port"] for one in centre.get("/api/services").body["services"]} == ports
    assert centre.registry["gaps"] == 0
    async with plain_client(mesh.server.url) as client:
        events = [one for one in await events_of(client, "service.registry.*") if one["node"] == "edge"]
    stamps = [(one["incarnation"], one["revision"]) for one in events if one["type"] != "unregistered"]
    assert stamps == sorted(stamps)
    assert not [stamp for stamp, count in Counter(stamps).items() if count > 1]
    assert len(stamps) > CHANGES
    sound = edge.run("audit", "--json")
    assert json.loads(sound.stdout)["sound"], sound.stdout[-3000:]


def test_what_is_stale_says_so_and_for_how_long_in_every_answer_and_after_a_restart_too(mesh: Mesh):
    edge = standalone(mesh).start().ready()
    edge.register("kept", port=1)
    mesh.agree()
    assert "X-Mesh-Stale" not in edge.get("/api/services").headers
    edge.terminate()
    mesh.server.kill()
    edge.start()
    ages = []
    for route in ROUTES:
        answer = edge.get(route)
        assert answer.status in {200, 404, 503}, route
        ages.append(float(answer.headers["X-Mesh-Stale"]))
    assert ages == sorted(ages)
    assert 0 < ages[0] < 60
    tag = edge.get("/api/services").headers["ETag"]
    unchanged = edge.request("GET", "/api/services", headers={"If-None-Match": tag})
    assert (unchanged.status, "X-Mesh-Stale" in unchanged.headers) == (304, True)
    assert "X-Mesh-Stale" in edge.register("meanwhile", port=2).headers
    registry = edge.registry
    assert registry["stale"] is True
    assert registry["stale_s"] > ages[0]
    assert edge.get("/readyz").body["stale_s"] > ages[0]
    later = registry["stale_s"] + 0.5
    eventually(lambda: edge.registry["stale_s"] > later, "it grows older")
    mesh.server.start()
    edge.ready()
    answer = edge.get("/api/services")
    assert "X-Mesh-Stale" not in answer.headers
    assert edge.registry["stale_s"] == 0


def test_a_standalone_node_that_has_its_identity_starts_for_the_first_time_while_the_hub_is_away(mesh: Mesh):
    mesh.server.kill()
    edge = standalone(mesh).start()
    assert edge.register("early", port=1).status == 202
    assert edge.knows("early")
    mesh.server.start()
    edge.ready()
    mesh.agree()
    assert mesh.agents["centre"].knows("early")


def test_a_standalone_node_without_an_identity_makes_no_mesh_of_its_own_while_the_hub_is_away(mesh: Mesh):
    mesh.server.kill()
    edge = standalone(mesh, PMOVES_TLS_DIR=str(mesh.directory / "none"))
    edge.launch()
    assert edge.wait() == 1
    assert "NATS_EXTERNAL_URL cannot be asked now" in edge.log
    assert "pmoves-mesh join" in edge.log
    assert not (mesh.directory / "none" / "ca.key").exists()


@pytest.mark.parametrize(
    ("settings", "servers", "embedded"),
    [
        ({}, "nats://127.0.0.1:4222", True),
        ({"NATS_EXTERNAL_URL": "nats://hub"}, "nats://hub:4222", False),
        ({"NATS_EXTERNAL_URL": "nats://hub", "NATS_URL": "nats://here"}, "nats://here:4222", False),
    ],
)
def test_the_hub_of_a_standalone_node_is_its_external_url_unless_another_server_is_named(
    tmp_path: Path, settings: dict[str, str], servers: str, embedded: bool
):
    config = load({"SERVICE_MODE": "standalone", **settings}, tmp_path)
    assert (config.nats_servers, config.embedded) == ((servers,), embedded)
    docked = load({"SERVICE_MODE": "docked", **settings}, tmp_path)
    assert docked.embedded is ("NATS_URL" not in settings)
