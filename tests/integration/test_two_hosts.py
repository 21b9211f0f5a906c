"""Two agents on one nats-server: what is registered at one is answered by the other, over plain HTTP."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from plain_nats import events_of, plain_client

EVENTS = "service.registry.*"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.started("alpha")
        mesh.started("beta")
        yield mesh


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.agents["alpha"]


@pytest.fixture
def beta(mesh: Mesh) -> AgentProcess:
    return mesh.agents["beta"]


def command(name: str) -> str:
    """Returns the path of a program that people paste into their terminals, or skips the test."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} command is installed")
    return path


def run(*words: str, text: str = "") -> str:
    done = subprocess.run(words, input=text, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(*words: str) -> str:
    return run(command("curl"), "-sS", "--fail-with-body", *words)


def jq(expression: str, text: str) -> list[str]:
    return run(command("jq"), "-c", expression, text=text).splitlines()


def seen(agent: AgentProcess, name: str, after: int) -> dict:
    """Returns a service as an agent shows it once it has reached a position."""
    answer = agent.get(f"/api/services/{name}", min_position=after)
    assert answer.status == 200, answer.text
    return answer.body


def test_the_call_of_the_guide_at_one_agent_is_answered_by_the_other(alpha: AgentProcess, beta: AgentProcess):
    port = urlsplit(alpha.url).port
    response = requests.post(
        f"http://localhost:{port}/api/services",
        json={
            "name": "hi-rag",
            "host": "192.168.1.20",
            "port": 8086,
            "mode": "standalone",
            "capabilities": ["rag", "search", "graph"],
            "health_url": "http://192.168.1.20:8086/healthz",
        },
        timeout=20,
    )
    assert response.status_code == 200
    answer = response.json()
    assert answer["status"] == "registered"
    found = seen(beta, "hi-rag", int(response.headers["X-Mesh-Position"]))
    instances = found.pop("instances")
    assert instances == [found] == [answer["service"]]
    expected = {
        "name": "hi-rag",
        "node": "alpha",
        "host": "192.168.1.20",
        "port": 8086,
        "mode": "standalone",
        "capabilities": ["rag", "search", "graph"],
        "health_url": "http://192.168.1.20:8086/healthz",
        "health_status": "unknown",
        "node_status": "alive",
        "maintenance": False,
        "verified": True,
        "signer": "spiffe://pmoves-mesh/node/alpha",
    }
    assert {field: found[field] for field in expected} == expected


def test_the_curl_line_without_a_content_type_discovers_on_the_other_host(
    alpha: AgentProcess, beta: AgentProcess
):
    alpha.register("whole", port=1, capabilities=["rag", "search", "gpu"])
    alpha.register("part", port=2, capabilities=["search"])
    after = alpha.register("exact", port=3, capabilities=["search", "rag"]).position
    url = f"{beta.url}/api/discover?min_position={after}"
    body = json.loads(curl("-X", "POST", url, "-d", '{"capabilities": ["rag", "search"]}'))
    found = {one["name"] for one in body["services"]}
    assert {"whole", "exact"} <= found
    assert "part" not in found
    assert body["count"] == len(body["services"])
    assert json.loads(curl(url, "-d", '["rag", "search"]')) == body


def test_the_jq_lines_of_the_guide_work_on_the_other_host(alpha: AgentProcess, beta: AgentProcess):
    after = alpha.register("jellyfin", port=8096, capabilities=["media"]).position
    status = curl(f"{beta.url}/api/status?min_position={after}")
    listing = curl(f"{beta.url}/api/services")
    names = [one["name"] for one in json.loads(listing)["services"]]
    assert "jellyfin" in names
    assert jq(".registry.services", status) == [str(len(names))] == jq(".count", listing)
    unhealthy = jq('.services[] | select(.health_status != "healthy")', listing)
    assert [json.loads(line)["name"] for line in unhealthy] == names
    assert jq(".registry.mesh, .registry.hostname", status) == ['"pmoves-mesh"', '"beta"']
    assert jq(".nodes[].name", status) == ['"alpha"', '"beta"']


def test_both_agents_list_the_same_in_the_same_bytes(mesh: Mesh, alpha: AgentProcess, beta: AgentProcess):
    alpha.register("same", port=1)
    beta.register("same", port=2)
    mesh.agree()
    assert alpha.names().count("same") == 2

    def is_same() -> bool:
        return alpha.get("/api/services").headers["ETag"] == beta.get("/api/services").headers["ETag"]

    eventually(is_same, "both answer with the same bytes")


def test_what_was_written_on_one_host_is_read_on_the_other_by_its_position(
    alpha: AgentProcess, beta: AgentProcess
):
    for number in range(20):
        writer, reader = (alpha, beta) if number % 2 else (beta, alpha)
        after = writer.register(f"own-{number}", port=number).position
        assert seen(reader, f"own-{number}", after)["position"] == after


def test_a_read_waits_until_the_other_hosts_write_has_arrived(alpha: AgentProcess, beta: AgentProcess):
    count = 10
    wanted = alpha.register("before", port=1).position + count
    with ThreadPoolExecutor(1) as thread:
        reading = thread.submit(beta.get, "/api/services/awaited", min_position=wanted)
        for _ in range(20):
            assert beta.get("/healthz").status == 200
        assert not reading.done()
        for number in range(count):
            alpha.register("awaited", port=number)
        answer = reading.result()
    assert answer.status == 200
    assert answer.position >= wanted


def test_a_registration_is_soon_visible_on_the_other_host(alpha: AgentProcess, beta: AgentProcess):
    took_s = []
    for number in range(30):
        begin = time.perf_counter()
        alpha.register(f"quick-{number}", port=number)
        eventually(lambda name=f"quick-{number}": beta.knows(name), "the registration is visible")
        took_s.append(time.perf_counter() - begin)
    median_s = statistics.median(took_s)
    note(f"from the POST to visible on the other agent: median {median_s * 1000:.1f} ms")
    assert median_s < 0.5


def test_a_service_removed_at_its_owner_is_gone_on_the_other_host(alpha: AgentProcess, beta: AgentProcess):
    seen(beta, "short-lived", alpha.register("short-lived", port=1).position)
    removed = alpha.delete("/api/services/short-lived")
    assert (removed.status, removed.body) == (200, {"status": "unregistered", "name": "short-lived"})
    gone = beta.get("/api/services/short-lived", min_position=removed.position)
    assert (gone.status, gone.body["detail"]) == (404, "Service not found")


def test_removing_a_service_at_another_agent_names_its_owner_and_changes_nothing(
    alpha: AgentProcess, beta: AgentProcess
):
    after = alpha.register("owned", port=1).position
    seen(beta, "owned", after)
    refused = beta.delete("/api/services/owned")
    assert refused.status == 409
    assert refused.body["nodes"] == ["alpha"]
    assert "alpha" in refused.body["detail"]
    assert alpha.knows("owned")
    assert beta.knows("owned")


def test_replicas_of_one_name_on_two_nodes_stand_side_by_side(alpha: AgentProcess, beta: AgentProcess):
    alpha.register("replica", host="10.0.0.1", port=80, capabilities=["on-alpha"])
    after = beta.register("replica", host="10.0.0.2", port=80, capabilities=["on-beta"]).position
    after = max(after, alpha.register("replica", host="10.0.0.3", port=80).position)
    for agent in (alpha, beta):
        found = seen(agent, "replica", after)
        assert {(one["node"], one["host"]) for one in found["instances"]} == {
            ("alpha", "10.0.0.1"),
            ("alpha", "10.0.0.3"),
            ("beta", "10.0.0.2"),
        }
        assert found["node"] == agent.node
    after = alpha.delete("/api/services/replica").position
    left = seen(beta, "replica", after)["instances"]
    assert [(one["node"], one["capabilities"]) for one in left] == [("beta", ["on-beta"])]


async def test_a_registration_without_a_change_adds_nothing_to_the_stream(mesh: Mesh, alpha: AgentProcess):
    fields = {"port": 9000, "capabilities": ["stt"], "metadata": {"model": "large-v3"}}
    first = alpha.register("whisper", **fields)
    async with plain_client(mesh.server.url) as client:
        before = await events_of(client, EVENTS)
        answers = [alpha.register("whisper", **fields) for _ in range(10)]
        assert await events_of(client, EVENTS) == before
    assert {answer.body["service"]["revision"] for answer in answers} == {first.body["service"]["revision"]}
    assert {answer.body["service"]["position"] for answer in answers} == {first.position}


def test_an_empty_list_clears_the_capabilities_everywhere(alpha: AgentProcess, beta: AgentProcess):
    alpha.register("cleared", port=1, capabilities=["one-of-a-kind"])
    after = alpha.register("cleared", port=1, capabilities=[]).position
    assert seen(beta, "cleared", after)["capabilities"] == []
    for agent in (alpha, beta):
        assert agent.post("/api/discover", ["one-of-a-kind"]).body == {"count": 0, "services": []}


def test_port_zero_means_known_without_an_endpoint(alpha: AgentProcess, beta: AgentProcess):
    after = alpha.register("no-endpoint", port=0, capabilities=["worker"]).position
    assert seen(beta, "no-endpoint", after)["port"] == 0


async def test_the_stream_holds_what_happened_as_plain_json_in_order(mesh: Mesh, alpha: AgentProcess):
    alpha.register("storied", port=7)
    alpha.register("storied", port=7, capabilities=["new"])
    alpha.delete("/api/services/storied")
    async with plain_client(mesh.server.url) as client:
        events = [one for one in await events_of(client, EVENTS) if one["service"] == "storied"]
    said = [one["type"] for one in events if one["type"] != "unregistered"]
    assert said == ["registered", "updated", "deregistered"]
    assert [one["data"]["capabilities"] for one in events][:2] == [[], ["new"]]
    assert {one["node"] for one in events} == {"alpha"}


def test_hosts_that_start_at_the_same_moment_believe_each_other_from_the_first_event_on(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        agents = [mesh.agent(f"node-{number}") for number in range(4)]
        for agent in agents:
            agent.launch()
        for agent in agents:
            agent.started().ready()
            agent.register(f"of-{agent.node}", port=1)
        for agent in agents:
            eventually(lambda agent=agent: len(agent.get("/api/nodes").body["nodes"]) == 4, "all are known")
        mesh.agree()
        for agent in agents:
            assert len(agent.names()) == 4
            assert agent.registry["rejections"] == []
            assert agent.registry["gaps"] == 0


def test_no_link_of_any_nodes_chain_is_missing_after_all_this(mesh: Mesh):
    mesh.agree()
    for agent in mesh.agents.values():
        assert agent.registry["gaps"] == 0
        assert agent.registry["rejections"] == []
        assert {node["gaps"] for node in agent.get("/api/nodes").body["nodes"]} == {0}
