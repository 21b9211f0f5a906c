"""Revocation: within a second no replica believes a revoked certificate, or shows what it signed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from plain_nats import plain_client, read_stream

from pmoves_mesh.agent.trust.trusted import IDENTITY_DIR
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.trust import fingerprint
from pmoves_mesh.pki.files import read_certificates

REVOKED = "mesh.trust.revoked.v1"
WITHIN_S = 1.0


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as mesh:
        for node in ("alpha", "beta", "gamma"):
            mesh.started(node).register(f"of-{node}", port=1, capabilities=["common"])
        mesh.agree()
        yield mesh


def certificate_of(agent: AgentProcess) -> str:
    return fingerprint(read_certificates(agent.data_dir / IDENTITY_DIR / "node.crt")[0])


class Watch(threading.Thread):
    """Notes when an agent no longer discovers a service."""

    def __init__(self, agent: AgentProcess, service: str) -> None:
        super().__init__(daemon=True)
        self.gone_at_s = 0.0
        self._agent = agent
        self._service = service
        self.start()

    def run(self) -> None:
        while self._agent.knows(self._service):
            time.sleep(0.005)
        self.gone_at_s = SystemClock().now_ms() / 1000


async def test_a_revoked_node_is_believed_by_nobody_within_a_second(mesh: Mesh):
    alpha, beta, gamma = (mesh.agents[node] for node in ("alpha", "beta", "gamma"))
    watches = [Watch(agent, "of-beta") for agent in (alpha, gamma)]
    done = alpha.run("certs", "revoke", "beta", "--reason", "stolen", "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert [one["fingerprint"] for one in answer["revoked"]] == [certificate_of(beta)]
    for watch in watches:
        watch.join(10)
        assert watch.gone_at_s, "it left discovery"
    async with plain_client(mesh.server.url) as client:
        (event,) = await read_stream(client, REVOKED)
    assert event.metadata.sequence.stream == answer["position"]
    took_s = max(watch.gone_at_s for watch in watches) - event.metadata.timestamp.timestamp()
    note(f"revoked on every replica after {took_s * 1000:.0f} ms")
    assert took_s < WITHIN_S
    for agent in (alpha, gamma):
        assert agent.names() == ["of-alpha", "of-gamma"]
        assert agent.post("/api/discover", ["common"]).body["count"] == 2
    assert "revoked" in beta.post("/api/services", {"name": "defiant", "port": 2}).body["detail"]
    beta.delete("/api/services/of-beta", wait="none")
    for agent in (alpha, gamma):
        eventually(lambda a=agent: a.registry["rejected"].get("revoked", 0) > 0, "it is counted", 10)
        latest = agent.registry["rejections"][-1]
        assert (latest["reason"], f"position {answer['position']}" in latest["detail"]) == ("revoked", True)
        assert not agent.knows("defiant")
        assert agent.names() == ["of-alpha", "of-gamma"]


def test_an_agent_that_comes_later_believes_it_no_more_than_the_others(mesh: Mesh):
    alpha = mesh.agents["alpha"]
    revoked = alpha.run("certs", "revoke", "node/beta", "--json")
    position = json.loads(revoked.stdout)["position"]
    delta = mesh.started("delta")
    assert delta.get("/api/services", min_position=position).status == 200
    assert delta.names() == ["of-alpha", "of-gamma"]


def test_a_fingerprints_beginning_is_enough_and_others_of_the_node_stay(mesh: Mesh):
    alpha, beta = mesh.agents["alpha"], mesh.agents["beta"]
    done = alpha.run("certs", "revoke", certificate_of(beta)[:12])
    assert done.returncode == 0, done.stderr
    assert certificate_of(beta) in done.stdout
    assert "revoked: 1 (position " in done.stdout
    assert not alpha.knows("of-beta")


def test_this_hosts_own_identity_is_not_revoked_by_mistake(mesh: Mesh):
    alpha = mesh.agents["alpha"]
    done = alpha.run("certs", "revoke", "alpha")
    assert (done.returncode, done.stdout) == (1, "")
    assert "--yes" in done.stderr
    assert alpha.knows("of-alpha")
    insisted = alpha.run("certs", "revoke", "alpha", "--yes")
    assert insisted.returncode == 0, insisted.stderr
    gamma = mesh.agents["gamma"]
    eventually(lambda: not gamma.knows("of-alpha"), "gamma heeds it", 5)


def test_what_is_not_known_is_not_revoked(mesh: Mesh):
    alpha = mesh.agents["alpha"]
    for unknown in ("nobody", "service/nobody", "0123456789abcdef"):
        done = alpha.run("certs", "revoke", unknown)
        assert (done.returncode, done.stdout) == (1, "")
        assert "is known" in done.stderr
    assert alpha.registry["rejected"] == {}
