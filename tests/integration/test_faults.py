"""What breaks, and what must survive it: nats-server and agents killed, away, emptied, ended in order."""

from __future__ import annotations

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from plain_nats import events_of, plain_client

EVENTS = "service.registry.*"
CURRENT_WITHIN_S = 5.0
ENDED_WITHIN_S = 5.0


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as mesh:
        mesh.started("alpha", ANNOUNCE_SEC="1")
        mesh.started("beta", ANNOUNCE_SEC="1")
        yield mesh


@pytest.fixture
def alpha(mesh: Mesh) -> AgentProcess:
    return mesh.agents["alpha"]


@pytest.fixture
def beta(mesh: Mesh) -> AgentProcess:
    return mesh.agents["beta"]


class Callers:
    """Register one service after another at each agent, and remember what was acknowledged."""

    def __init__(self, *agents: AgentProcess) -> None:
        self.acknowledged: dict[str, int] = {}
        self._agents = agents
        self._stop = threading.Event()
        self._threads = ThreadPoolExecutor(len(agents))

    def __enter__(self) -> Self:
        self._calls = [self._threads.submit(self._register, agent) for agent in self._agents]
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._threads.shutdown()
        for call in self._calls:
            call.result()

    def _register(self, agent: AgentProcess) -> None:
        number = 0
        while not self._stop.wait(0.01):
            name = f"{agent.node}-{number}"
            self.acknowledged[name] = agent.register(name, port=number % 65536).status
            number += 1

    def accepted(self, count: int) -> int:
        """Returns how many were answered with 202 (in the outbox) from the one numbered `count` on."""
        return sum(status == 202 for status in list(self.acknowledged.values())[count:])


async def check_stream(mesh: Mesh, names: set[str]) -> None:
    """Checks that the stream holds each node's every event once, and each registration once."""
    async with plain_client(mesh.server.url) as client:
        events = await events_of(client, EVENTS)
    stamps = Counter((one["node"], one["incarnation"], one["revision"]) for one in events)
    assert not [stamp for stamp, count in stamps.items() if count > 1]
    registered = Counter(one["service"] for one in events if one["type"] == "registered")
    assert set(registered) == names
    assert set(registered.values()) == {1}


def statuses(agent: AgentProcess) -> set[str]:
    return {node["status"] for node in agent.get("/api/nodes").body["nodes"]}


def check_intact(mesh: Mesh, names: set[str]) -> None:
    """Checks that all agents agree on what is registered, and miss nothing of any node's chain."""
    mesh.agree()
    for agent in mesh.agents.values():
        assert set(agent.names()) == names
        assert agent.registry["rejections"] == []
        assert agent.registry["gaps"] == 0
        eventually(lambda agent=agent: statuses(agent) == {"alive"}, "every node is alive")


async def test_registrations_made_while_nats_is_killed_and_restarted_are_neither_lost_nor_doubled(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    took_s = []
    with Callers(alpha, beta) as callers:
        for _ in range(3):
            before = len(callers.acknowledged)
            eventually(lambda n=before: len(callers.acknowledged) > n + 10, "registrations are made")
            mesh.server.kill()
            eventually(lambda: not alpha.is_ready() and not beta.is_ready(), "both notice")
            away = len(callers.acknowledged)
            eventually(lambda n=away: callers.accepted(n) > 20, "registrations are accepted meanwhile")
            mesh.server.start()
            took_s.append(eventually(lambda: alpha.is_ready() and beta.is_ready(), "both are current again"))
    note(f"current again after the server's return: {', '.join(f'{each:.2f} s' for each in took_s)}")
    assert max(took_s) < CURRENT_WITHIN_S
    names = set(callers.acknowledged)
    assert set(callers.acknowledged.values()) == {200, 202}
    check_intact(mesh, names)
    await check_stream(mesh, names)


async def test_an_agent_killed_right_after_it_acknowledged_a_registration_has_it_when_it_is_back(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    names = set()
    for number in range(8):
        name = f"kept-{number}"
        query = {"wait": "none"} if number % 2 else {}
        answer = alpha.post("/api/services", {"name": name, "port": number}, **query)
        alpha.kill()
        assert answer.status in {200, 202}
        names.add(name)
        alpha.start()
        eventually(lambda name=name: alpha.knows(name), f"{name} is known at alpha")
        eventually(lambda name=name: beta.knows(name), f"{name} is known at beta")
    check_intact(mesh, names)
    await check_stream(mesh, names)


def test_what_is_registered_here_is_found_here_although_agent_and_server_died_and_only_the_agent_is_back(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    alpha.register("kept", port=1)
    alpha.register("gone", port=2)
    assert alpha.delete("/api/services/gone").status == 200
    alpha.kill()
    mesh.server.kill()
    alpha.start()
    eventually(lambda: alpha.knows("kept"), "the registration is found locally")
    assert not alpha.knows("gone")
    mesh.server.start()
    alpha.ready()
    check_intact(mesh, {"kept"})
    assert beta.knows("kept")


async def test_what_an_agent_accepted_while_nats_was_away_outlives_its_own_death(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    mesh.server.kill()
    for number in range(5):
        assert alpha.register(f"kept-{number}", port=number).status == 202
    alpha.kill()
    alpha.start()
    assert [alpha.knows(f"kept-{number}") for number in range(5)] == [True] * 5
    mesh.server.start()
    names = {f"kept-{number}" for number in range(5)}
    eventually(lambda: set(beta.names()) == names, "all of them are known at beta")
    check_intact(mesh, names)
    await check_stream(mesh, names)


def test_an_agent_that_starts_while_nats_is_away_answers_from_its_snapshot_and_joins_later(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    alpha.register("here", port=1, capabilities=["known"])
    beta.register("there", port=2, capabilities=["known"])
    mesh.agree()
    alpha.terminate()
    mesh.server.kill()
    alpha.start()
    answer = alpha.get("/api/services")
    assert sorted(one["name"] for one in answer.body["services"]) == ["here", "there"]
    assert "X-Mesh-Stale" in answer.headers
    # Its snapshot says that it has left; it announces itself as soon as it runs.
    eventually(lambda: alpha.post("/api/discover", ["known"]).body["count"] == 2, "both are discovered")
    not_ready = alpha.get("/readyz")
    assert (not_ready.status, not_ready.headers["Content-Type"]) == (503, "application/problem+json")
    assert alpha.get("/healthz").body == {"status": "healthy", "service": "service-registry"}
    assert alpha.registry["stale"] is True
    assert alpha.register("meanwhile", port=3).status == 202
    assert alpha.knows("meanwhile")
    assert not beta.knows("meanwhile")
    mesh.server.start()
    eventually(lambda: beta.knows("meanwhile"), "the registration arrives")
    alpha.ready()
    assert "X-Mesh-Stale" not in alpha.get("/api/services").headers
    check_intact(mesh, {"here", "there", "meanwhile"})


def test_the_first_start_of_all_may_come_before_nats(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        mesh.server.kill()
        first = mesh.agent("first").start()
        assert first.register("early", port=1).status == 202
        assert first.knows("early")
        assert first.get("/readyz").status == 503
        mesh.server.start()
        first.ready()
        check_intact(mesh, {"early"})


def test_an_agent_that_ends_in_order_has_left_and_comes_back_with_its_instances(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    after = alpha.register("whisper", port=9000, capabilities=["stt"]).position
    assert beta.get("/api/services/whisper", min_position=after).status == 200
    took_s = alpha.terminate()
    note(f"ended within {took_s:.2f} s")
    assert took_s < ENDED_WITHIN_S
    assert alpha.logged("agent stopped")

    def status() -> Any:
        return beta.get("/api/nodes/alpha").body["status"]

    eventually(lambda: status() == "left", "alpha has left")
    assert beta.post("/api/discover", ["stt"]).body == {"count": 0, "services": []}
    assert not beta.knows("whisper")
    (listed,) = beta.get("/api/services").body["services"]
    assert (listed["name"], listed["node_status"]) == ("whisper", "left")
    alpha.restart()
    eventually(lambda: status() == "alive", "alpha is back")
    assert beta.post("/api/discover", ["stt"]).body["count"] == 1
    check_intact(mesh, {"whisper"})


def test_an_agent_ends_in_time_although_nats_is_away(mesh: Mesh, alpha: AgentProcess, beta: AgentProcess):
    alpha.register("whisper", port=9000)
    mesh.server.kill()
    alpha.register("late", port=9001)
    assert alpha.terminate() < ENDED_WITHIN_S
    mesh.server.start()
    beta.ready()
    alpha.restart()
    check_intact(mesh, {"whisper", "late"})


def test_a_node_whose_agent_was_killed_is_alive_again_and_its_older_snapshot_does_no_harm(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    alpha.register("jellyfin", port=8096)
    alpha.register("gone-since", port=1)
    alpha.terminate()
    alpha.restart()
    alpha.register("whisper", port=9000)
    alpha.delete("/api/services/gone-since")
    mesh.agree()
    before = beta.get("/api/nodes/alpha").body["incarnation"]
    alpha.kill()
    alpha.restart()
    mesh.agree()
    eventually(lambda: beta.get("/api/nodes/alpha").body["incarnation"] > before, "it announced itself anew")
    check_intact(mesh, {"jellyfin", "whisper"})


def test_agents_state_everything_again_when_the_server_comes_back_empty(
    mesh: Mesh, alpha: AgentProcess, beta: AgentProcess
):
    for number in range(20):
        alpha.register(f"of-alpha-{number}", port=number)
        beta.register(f"of-beta-{number}", port=number)
    beta.delete("/api/services/of-beta-0")
    mesh.agree()
    names = set(alpha.names())
    assert len(names) == 39
    mesh.server.kill()
    shutil.rmtree(mesh.server.directory / "store")
    mesh.server.start()
    eventually(lambda: alpha.is_ready() and beta.is_ready(), "both follow the new stream")
    eventually(lambda: set(alpha.names()) == set(beta.names()) == names, "everything was stated again")
    mesh.started("gamma")
    mesh.agree()
    assert set(mesh.agents["gamma"].names()) == names


async def test_the_order_of_a_nodes_events_in_the_stream_is_the_order_of_its_revisions(
    mesh: Mesh, alpha: AgentProcess
):
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(alpha.register, f"at-once-{n}", port=n) for n in range(200)]
        time.sleep(0)
        mesh.server.restart()
    assert {call.result().status for call in calls} <= {200, 202}
    eventually(lambda: alpha.registry["outbox"] == 0, "everything is in the stream")
    async with plain_client(mesh.server.url) as client:
        events = [one for one in await events_of(client, EVENTS) if one["node"] == "alpha"]
    revisions = [one["revision"] for one in events]
    assert len(events) == 200
    assert revisions == sorted(set(revisions))
    check_intact(mesh, {f"at-once-{n}" for n in range(200)})
