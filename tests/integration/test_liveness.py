"""Alive or not: agents that are killed, stopped, starved and cut off, at what they cost the others.

How soon is measured by `python -m benchmarks liveness`; here limits are loose, for machines that are busy.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from plain_nats import ANNOUNCE, events_of, plain_client, publish
from ports import free_port

LOST = "mesh.node.lost.v1"
EXPIRED = "service.registry.expired"
SHORT = {"PMOVES_LEASE_TTL_S": "3", "ANNOUNCE_SEC": "1"}
SHORT_TTL_S = 3.0
LATE_S = 4.0
"""How much later than promised is still no failure of ours."""


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as mesh:
        yield mesh


def each_with_a_service(mesh: Mesh, *names: str, **settings: str) -> list[AgentProcess]:
    """Starts agents, each with a service of its own name that all others know."""
    agents = [mesh.started(name, **settings) for name in names]
    for number, agent in enumerate(agents, 9000):
        agent.register(f"of-{agent.node}", port=number)
    for agent in agents:
        eventually(lambda agent=agent: all(agent.knows(f"of-{name}") for name in names), "all know all")
    return agents


def stated(mesh: Mesh, subject: str) -> list[dict[str, Any]]:
    async def read() -> list[dict[str, Any]]:
        async with plain_client(mesh.server.url) as client:
            return await events_of(client, subject)

    return asyncio.run(read())


def losses(mesh: Mesh) -> list[str]:
    return [event["node"] for event in stated(mesh, LOST)]


def stays(condition: Callable[[], bool], what: str, for_s: float) -> None:
    """Fails the test as soon as the condition does not hold."""
    until = time.perf_counter() + for_s
    while time.perf_counter() < until:
        assert condition(), what
        time.sleep(0.02)


def is_gone(name: str, *others: AgentProcess) -> Callable[[], bool]:
    return lambda: not any(agent.knows(f"of-{name}") for agent in others)


# Lost


def test_a_killed_agent_is_out_of_discovery_within_two_seconds_and_lost_once(mesh: Mesh):
    names = ("alpha", "beta", "gamma", "delta", "epsilon")
    alpha, beta, *others = each_with_a_service(mesh, *names)
    beta.kill()
    took_s = eventually(is_gone("beta", alpha, *others), "beta is gone", 2 + LATE_S)
    note(f"killed: gone everywhere after {took_s:.2f} s")
    assert alpha.get("/api/nodes/beta").body["status"] == "lost"
    stays(lambda: alpha.knows("of-gamma"), "the others stay", 11)  # its lease has run out by now too
    (event,) = stated(mesh, LOST)
    assert event["node"] == "beta"
    assert event["witness"] in {agent.node for agent in (alpha, *others)}
    beta.restart()
    eventually(lambda: alpha.knows("of-beta"), "it is back at once when it runs again")


def test_on_a_server_that_tells_of_no_connections_the_lease_alone_tells(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        silent = 'authorization { users: [{ user: a, password: b, permissions: { subscribe: { allow: ">",'
        mesh.server.kill()
        mesh.server.configure(f'{silent} deny: "$JS.EVENT.>" }} }} }}] }}')
        mesh.server.start()
        login = {"NATS_USER": "a", "NATS_PASSWORD": "b", **SHORT}
        alpha, beta = each_with_a_service(mesh, "alpha", "beta", **login)
        beta.kill()
        took_s = eventually(is_gone("beta", alpha), "beta is gone", 2 * SHORT_TTL_S + LATE_S)
        note(f"by its lease alone, of {SHORT_TTL_S:g} s: gone after {took_s:.2f} s")
        assert alpha.logged("node lost", node="beta", reason="its lease ran out")


def test_the_embedded_server_tells_it_as_soon_even_of_its_own_agent(tmp_path: Path):
    port = free_port()
    host = AgentProcess(tmp_path, "host", "", PMOVES_NATS_PORT=str(port))
    url = f"nats://127.0.0.1:{port}"
    with host, AgentProcess(tmp_path, "one", url) as one, AgentProcess(tmp_path, "two", url) as two:
        try:
            for number, agent in enumerate((host, one, two), 9000):
                agent.ready().register(f"of-{agent.node}", port=number)
            eventually(lambda: two.knows("of-host") and two.knows("of-one"), "they know one another")
            one.kill()
            eventually(is_gone("one", host, two), "one is gone", 2 + LATE_S)
            host.kill()
            eventually(is_gone("host", two), "the agent of the server's host is gone", 2 + LATE_S)
        finally:
            host.start()
            host.terminate()


def test_an_agent_that_leaves_is_out_of_discovery_before_it_has_ended(mesh: Mesh):
    alpha, beta, gamma = each_with_a_service(mesh, "alpha", "beta", "gamma")
    assert beta.terminate() < 3
    took_s = eventually(is_gone("beta", alpha, gamma), "beta is gone", LATE_S)
    assert took_s < 1
    assert alpha.get("/api/nodes/beta").body["status"] == "left"
    stays(lambda: alpha.knows("of-gamma"), "gamma stays", 2)
    assert losses(mesh) == []


# Not lost


def test_a_process_that_is_stopped_for_less_than_its_lease_is_never_lost(mesh: Mesh):
    alpha, beta, _ = each_with_a_service(mesh, "alpha", "beta", "gamma", **SHORT)
    for _ in range(4):
        beta.pause()
        stays(lambda: alpha.knows("of-beta"), "beta is known all the time", SHORT_TTL_S - 0.3)
        beta.resume()
        stays(lambda: alpha.knows("of-beta"), "beta is known all the time", 0.7)
    stays(lambda: alpha.knows("of-beta"), "beta is known ever after", 2 * SHORT_TTL_S)
    assert losses(mesh) == []


def test_a_process_that_was_stopped_for_longer_refutes_its_loss_at_once(mesh: Mesh):
    alpha, beta, gamma = each_with_a_service(mesh, "alpha", "beta", "gamma", **SHORT)
    beta.pause()
    eventually(is_gone("beta", alpha, gamma), "beta is gone", 2 * SHORT_TTL_S + LATE_S)
    beta.resume()
    took_s = eventually(lambda: alpha.knows("of-beta") and gamma.knows("of-beta"), "beta is back", LATE_S)
    note(f"refuted after {took_s:.2f} s")
    stays(lambda: alpha.knows("of-beta") and beta.knows("of-alpha"), "and stays", 2 * SHORT_TTL_S)
    assert losses(mesh) == ["beta"]


@contextmanager
def busy_processors() -> Iterator[None]:
    """Keeps every processor busy, twice over."""
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def test_agents_that_get_little_time_are_not_lost(mesh: Mesh):
    alpha, beta, gamma = each_with_a_service(mesh, "alpha", "beta", "gamma", **SHORT)
    with busy_processors():
        stays(lambda: alpha.knows("of-beta") and beta.knows("of-gamma"), "all are known", 4 * SHORT_TTL_S)
    assert gamma.is_ready()
    assert losses(mesh) == []


def test_when_the_server_was_away_nobody_is_lost_on_its_return(mesh: Mesh):
    agents = each_with_a_service(mesh, "alpha", "beta", "gamma", **SHORT)
    alpha, *others = agents
    mesh.server.kill()
    stays(lambda: alpha.knows("of-beta"), "what was known is still known", 2 * SHORT_TTL_S)
    mesh.server.start()
    eventually(lambda: all(agent.is_ready() for agent in agents), "all are back")
    known = lambda: alpha.knows("of-beta") and others[0].knows("of-gamma")  # noqa: E731
    stays(known, "nobody is lost", 4 * SHORT_TTL_S)
    assert losses(mesh) == []


def test_when_the_server_stood_still_for_longer_than_all_leases_nobody_is_lost(mesh: Mesh):
    agents = each_with_a_service(mesh, "alpha", "beta", "gamma", **SHORT)
    mesh.server.pause()
    stays(lambda: agents[0].is_running, "it runs on", 2 * SHORT_TTL_S)
    mesh.server.resume()
    eventually(lambda: all(agent.is_ready() for agent in agents), "all are back")
    stays(lambda: agents[0].knows("of-beta"), "nobody is lost", 4 * SHORT_TTL_S)
    assert losses(mesh) == []


def test_who_died_while_the_server_was_away_is_lost_after_its_return(mesh: Mesh):
    alpha, beta, gamma = each_with_a_service(mesh, "alpha", "beta", "gamma", **SHORT)
    mesh.server.kill()
    beta.kill()
    mesh.server.start()
    took_s = eventually(is_gone("beta", alpha, gamma), "beta is gone", 6 * SHORT_TTL_S + LATE_S)
    note(f"swept, with leases of {SHORT_TTL_S:g} s: gone after {took_s:.2f} s")
    assert losses(mesh) == ["beta"]


# Those that do not sign, and what the lost leave behind


def test_a_node_that_does_not_sign_is_lost_after_three_missed_announcements(mesh: Mesh):
    alpha = mesh.started("alpha", PMOVES_UNSIGNED="accept", **SHORT)

    async def announce() -> None:
        async with plain_client(mesh.server.url) as client:
            body = {"type": ANNOUNCE, "node": "today", "host": "127.0.0.1", "port": 9}
            await publish(client, ANNOUNCE, json.dumps(body).encode())

    for _ in range(5):
        asyncio.run(announce())
        stays(lambda: True, "time passes", 1.0)
        assert alpha.knows("today")
    eventually(lambda: not alpha.knows("today"), "it is lost", 3.0 + LATE_S)
    assert losses(mesh) == ["today"]
    asyncio.run(announce())
    eventually(lambda: alpha.knows("today"), "one more announcement, and it is back")


def test_instances_of_a_lost_node_leave_the_registry_after_their_time_and_come_back_with_it(mesh: Mesh):
    alpha, beta, gamma = [mesh.started(name, **SHORT) for name in ("alpha", "beta", "gamma")]
    beta.register("short", port=1, deregister_after=2)
    beta.register("long", port=2)
    eventually(lambda: {"short", "long"} <= set(alpha.names()) & set(gamma.names()), "both are known")
    beta.kill()
    eventually(lambda: not alpha.knows("short"), "beta is lost", 2 + LATE_S)
    assert "short" in alpha.names(), "it is listed for its time"
    eventually(lambda: "short" not in alpha.names() + gamma.names(), "then it is no more", 2 + LATE_S)
    assert "long" in alpha.names()
    assert len(stated(mesh, EXPIRED)) == 1
    beta.restart()
    eventually(lambda: alpha.knows("short") and gamma.knows("long"), "it takes both back")
