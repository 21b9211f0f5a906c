"""A node whose data was copied to a second machine: real agents, both of which say so."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note

TTL_S = 3
TOLD_WITHIN_S = 10.0
LEASES = {"PMOVES_LEASE_TTL_S": str(TTL_S)}


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as mesh:
        yield mesh


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.started("alpha", ANNOUNCE_SEC="1", **LEASES)


@pytest.fixture
def beta(mesh: Mesh, alpha: AgentProcess) -> AgentProcess:
    assert alpha.is_running
    return mesh.started("beta", ANNOUNCE_SEC="1", **LEASES)


@pytest.fixture
def clone(mesh: Mesh, alpha: AgentProcess) -> Iterator[AgentProcess]:
    """A host with a copy of what alpha keeps on its disk; not started yet."""
    alpha.register("of-alpha", port=1)
    alpha.terminate()
    settings = {"PMOVES_TLS_DIR": str(alpha.tls_dir), "ANNOUNCE_SEC": "1", **LEASES}
    made = AgentProcess(mesh.directory / "elsewhere", "alpha", mesh.server.url, **settings)
    shutil.copytree(alpha.data_dir, made.data_dir)
    alpha.start().ready()
    yield made
    made.kill()


def warnings(agent: AgentProcess) -> str:
    return "\n".join(agent.registry["warnings"])


def statuses(agent: AgentProcess) -> dict[str, str]:
    return {node["name"]: node["status"] for node in agent.get("/api/nodes").body["nodes"]}


def test_the_clone_of_a_node_ends_with_one_line_and_the_node_stays_and_warns(
    alpha: AgentProcess, beta: AgentProcess, clone: AgentProcess
):
    assert "identity" not in warnings(alpha)
    clone.launch()
    took_s = eventually(lambda: not clone.is_running, "the clone ends", TOLD_WITHIN_S)
    note(f"the clone ended {took_s:.2f} s after its start")
    assert clone.wait() == 1
    (line,) = [line for line in clone.log.splitlines() if not line.startswith("{")]
    assert line.startswith("pmoves-mesh: node alpha already runs on ")
    assert line.endswith("give this host a name and an identity of its own (pmoves-mesh join)")
    assert "ran with this node's identity and was told to stop" in warnings(alpha)
    assert len(alpha.logged("another host runs with this node's identity; it was told to stop")) == 1
    eventually(lambda: alpha.is_ready() and statuses(beta)["alpha"] == "alive", "alpha is alive to beta")
    eventually(lambda: beta.knows("of-alpha"), "what alpha registered is known to beta")
    alpha.register("after", port=2)
    eventually(lambda: beta.knows("after"), "alpha still speaks for itself")


def test_a_node_that_is_killed_and_started_again_warns_of_nobody(alpha: AgentProcess):
    for _ in range(2):
        alpha.kill()
        alpha.restart()
    alpha.terminate()
    alpha.restart()
    assert "identity" not in warnings(alpha)
    assert not alpha.logged("lease not refreshed; trying again")


def test_a_server_that_was_killed_and_lost_the_leases_ends_no_agent(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    mesh.server.kill()
    eventually(lambda: alpha.logged("lease not refreshed; trying again") != [], "alpha notices")
    mesh.server.start()
    for agent in (alpha, beta):
        agent.ready()
    eventually(lambda: alpha.logged("lease refreshed again") != [], "alpha holds its lease again")
    assert alpha.is_running
    assert beta.is_running
    assert len(alpha.logged("lease not refreshed; trying again")) == 1
    assert "identity" not in warnings(alpha)
