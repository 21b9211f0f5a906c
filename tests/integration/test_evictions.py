"""Evictions: what an operator takes out stays out, whatever its owner does, until it is lifted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in

KNOWN_WITHIN_S = 5.0


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        mesh.started("alpha")
        mesh.started("beta", ANNOUNCE_SEC="1")
        yield mesh


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.agents["alpha"]


@pytest.fixture
def beta(mesh: Mesh) -> AgentProcess:
    return mesh.agents["beta"]


def decreed(agent: AgentProcess, *arguments: str) -> int:
    """Runs `deregister` with a decree; returns the decree's position."""
    done = agent.run("deregister", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["position"])


def shown_at(agent: AgentProcess, position: int, service: str) -> set[tuple[str, str]]:
    """Returns node and id of each instance of a service that an agent shows at a position."""
    answer = agent.get("/api/services", min_position=position, name=service)
    assert answer.status == 200, answer.text
    return {(one["node"], one["id"]) for one in answer.body["services"]}


def nodes_at(agent: AgentProcess, position: int, service: str) -> set[str]:
    return {node for node, _ in shown_at(agent, position, service)}


def test_an_evicted_service_stays_gone_through_all_that_its_owner_does_until_it_is_lifted(
    alpha: AgentProcess, beta: AgentProcess
):
    beta.register("rag", port=1)
    alpha.register("rag", port=1)
    evicted = decreed(alpha, "beta/rag", "--force", "--reason", "answers nonsense")
    for agent in (alpha, beta):
        assert nodes_at(agent, evicted, "rag") == {"alpha"}
    again = beta.post("/api/services", {"name": "rag", "port": 2, "metadata": {"run": 2}})
    last = beta.register("other", port=3).position
    assert again.position < last
    assert nodes_at(alpha, last, "rag") == {"alpha"}
    beta.kill()
    beta.restart()
    last = beta.register("other", port=4).position
    for agent in (alpha, beta):
        assert nodes_at(agent, last, "rag") == {"alpha"}
    lifted = decreed(alpha, "beta/rag", "--lift")
    for agent in (alpha, beta):
        assert nodes_at(agent, lifted, "rag") == {"alpha", "beta"}
    ports = {one["node"]: one["port"] for one in alpha.get("/api/services/rag").body["instances"]}
    assert ports == {"alpha": 1, "beta": 2}, "what the owner said last is what came back"


def test_one_instance_can_be_evicted_and_its_siblings_stay(alpha: AgentProcess, beta: AgentProcess):
    for instance_id in ("one", "two"):
        last = beta.register("twins", id=instance_id, port=1).position
    assert shown_at(alpha, last, "twins") == {("beta", "one"), ("beta", "two")}
    evicted = decreed(alpha, "beta/twins/one", "--force")
    assert shown_at(beta, evicted, "twins") == {("beta", "two")}
    lifted = decreed(alpha, "beta/twins/one", "--force", "--lift")
    assert shown_at(beta, lifted, "twins") == {("beta", "one"), ("beta", "two")}


def test_an_eviction_waits_for_a_service_that_is_not_there_yet(alpha: AgentProcess, beta: AgentProcess):
    evicted = decreed(alpha, "beta/unborn", "--force")
    assert evicted > 0
    beta.post("/api/services", {"name": "unborn", "port": 1}, wait="none")
    last = beta.register("born", port=1).position
    assert shown_at(alpha, last, "born")
    assert not shown_at(alpha, last, "unborn")


def test_an_agent_that_comes_later_knows_of_it(mesh: Mesh, alpha: AgentProcess, beta: AgentProcess):
    beta.register("old-news", port=1)
    evicted = decreed(alpha, "beta/old-news", "--force")
    gamma = mesh.started("gamma")
    assert not shown_at(gamma, evicted, "old-news")
    gamma.terminate()


def test_it_is_said_in_words_where_it_stands_and_what_was_done(alpha: AgentProcess, beta: AgentProcess):
    beta.register("wordy", port=1)
    done = alpha.run("deregister", "beta/wordy", "--force")
    position = alpha.registry["position"]
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("evicted: beta/wordy (position ")
    said = int(done.stdout.split("position ")[1].split(")")[0])
    assert said <= position


def test_a_host_without_the_cas_key_evicts_nothing(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha = mesh.started("alpha")
        alpha.register("rag", port=1)
        shutil.copytree(mesh.directory / "tls", mesh.directory / "keyless")
        (mesh.directory / "keyless" / "ca.key").unlink()
        poor = mesh.agent("poor", PMOVES_TLS_DIR=str(mesh.directory / "keyless"))
        done = poor.run("deregister", "alpha/rag", "--force")
        assert (done.returncode, done.stdout) == (1, "")
        assert "ca.key" in done.stderr
        assert alpha.knows("rag")


def test_without_an_agent_here_the_decree_is_made_all_the_same(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        alpha = mesh.started("alpha")
        alpha.register("rag", port=1)
        bare = mesh.agent("bare", SERVICE_REGISTRY_PORT="1")
        done = bare.run("deregister", "alpha/rag", "--force")
        assert done.returncode == 0, done.stderr
        assert "not heeded by an agent here yet" in done.stdout
        eventually(lambda: not alpha.knows("rag"), "alpha heeds it", KNOWN_WITHIN_S)
