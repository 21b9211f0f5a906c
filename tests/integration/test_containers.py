"""Containers register themselves: a real agent follows a real engine, and what it says is what runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in, note
from engines import (
    DOCKER_SOCKET,
    Podman,
    Relay,
    checked_by,
    host_port,
    labelled,
    podman_problem,
    running,
    unique,
)
from nats_server import build_image, engine_problem

SOON_S = 15.0
"""Events tell; whoever only asked now and then would take longer."""


@pytest.fixture
def client() -> Iterator[Any]:
    if problem := engine_problem():
        pytest.skip(problem)
    build_image()
    import docker  # noqa: PLC0415 - it is needed only where there is an engine

    made = docker.from_env()
    yield made
    made.close()


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as made:
        yield made


@pytest.fixture
def agent(client: Any, mesh: Mesh) -> AgentProcess:
    """A node that follows the engine of this host; others' containers may be registered there too."""
    del client
    started = mesh.started("jetson", PMOVES_CONTAINERS=str(DOCKER_SOCKET))
    eventually(lambda: bool(started.logged("containers are followed")), "the engine is followed")
    return started


def instances(agent: AgentProcess, service: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = agent.get("/api/services", name=service).body["services"]
    return found


def comes(agent: AgentProcess, service: str, within_s: float = SOON_S, **fields: Any) -> dict[str, Any]:
    """Waits until there is one instance with these fields, and returns it."""

    def there() -> bool:
        found = instances(agent, service)
        return len(found) == 1 and fields.items() <= found[0].items()

    took_s = eventually(there, f"{service} is {fields}; it is {instances(agent, service)}", within_s)
    note(f"{service} {fields}: {1000 * took_s:.0f} ms")
    return instances(agent, service)[0]


def goes(agent: AgentProcess, service: str, within_s: float = SOON_S) -> None:
    took_s = eventually(lambda: not instances(agent, service), f"{service} is gone", within_s)
    note(f"{service} gone: {1000 * took_s:.0f} ms")


# What it registers


def test_a_labelled_container_is_registered_where_its_port_is_published(client: Any, agent: AgentProcess):
    service = unique("rag")
    labels = labelled(service, capabilities="rag, search", metadata__team="core", mode="standalone")
    with running(client, labels=labels, ports={"4222": None}, name=f"{service}.one") as container:
        found = comes(agent, service, port=host_port(container), health_status="healthy")
    assert (found["id"], found["node"], found["mode"]) == (f"{service}-one", "jetson", "standalone")
    assert found["host"] == agent.get("/api/nodes/jetson").body["host"]
    assert found["capabilities"] == ["rag", "search"]
    image = container.attrs["Config"]["Image"]
    mark = {"id": container.id[:12], "name": f"{service}.one", "image": image}
    assert found["metadata"] == {"team": "core", "container": mark}


def test_one_without_a_label_is_not_registered_and_one_that_ran_before_the_agent_is(client: Any, mesh: Mesh):
    service = unique("early")
    with (
        running(client, labels=labelled(service), ports={"4222": None}),
        running(client, ports={"4222": None}, name=unique("plain")) as plain,
    ):
        agent = mesh.started("jetson", PMOVES_CONTAINERS=str(DOCKER_SOCKET))
        comes(agent, service)
        names = {
            one["metadata"].get("container", {}).get("name")
            for one in agent.get("/api/services").body["services"]
        }
        assert plain.name not in names


def test_several_ports_have_names_and_the_first_is_chosen_by_a_label(client: Any, agent: AgentProcess):
    service = unique("store")
    labels = labelled(service, port="4222", ports__monitor="8222")
    with running(client, labels=labels, ports={"4222": None, "8222": None}) as container:
        comes(agent, service, port=host_port(container), ports={"monitor": host_port(container, "8222/tcp")})


def test_a_container_on_the_hosts_network_has_its_own_port(client: Any, agent: AgentProcess):
    service = unique("hosted")
    with running(client, labels=labelled(service, port="14222"), network_mode="host", command="-p 14222"):
        comes(agent, service, port=14222)


def test_a_container_in_anothers_network_is_reached_at_the_others_ports(client: Any, agent: AgentProcess):
    service = unique("sharing")
    with running(client, ports={"9999": None}, name=unique("door")) as door:
        network = f"container:{door.name}"
        labels = labelled(service, port="9999", health="none")
        with running(client, labels=labels, network_mode=network, command="-p 9999"):
            comes(agent, service, port=host_port(door, "9999/tcp"))
            door.restart(timeout=0)
            comes(agent, service, port=host_port(door, "9999/tcp"))


# Its health


def test_its_health_is_dockers(client: Any, agent: AgentProcess, tmp_path: Path):
    service, checked = unique("ailing"), tmp_path / "checked"
    checked.mkdir()
    (checked / "nats.conf").write_text("port: 4222\n")
    with running(client, labels=labelled(service), **checked_by(checked)):
        comes(agent, service, health_status="healthy", health_output="the container is healthy")
        (checked / "nats.conf").write_text('"no configuration"')
        comes(agent, service, health_status="unhealthy", health_output="the container is unhealthy")
        (checked / "nats.conf").write_text("port: 4222\n")
        comes(agent, service, health_status="healthy")


def test_its_health_may_be_asked_at_a_path_of_its_port(client: Any, agent: AgentProcess):
    service = unique("asked")
    labels = labelled(service, health="/healthz")
    with running(client, labels=labels, ports={"8222": None}, command="-m 8222") as container:
        found = comes(agent, service, within_s=30, health_status="healthy", health_output="HTTP 200")
        assert found["port"] == host_port(container, "8222/tcp")
    assert found["health_url"] == f"http://{found['host']}:{found['port']}/healthz"


# Its life


def test_a_container_that_pauses_stops_or_is_removed_leaves_at_once_and_returns(
    client: Any, agent: AgentProcess
):
    service = unique("lively")
    with running(client, labels=labelled(service), ports={"4222": None}) as container:
        comes(agent, service)
        container.pause()
        goes(agent, service)
        container.unpause()
        comes(agent, service)
        container.stop(timeout=0)
        goes(agent, service)
        container.start()
        comes(agent, service, port=host_port(container))
        container.restart(timeout=0)
        comes(agent, service, port=host_port(container))
        container.remove(force=True)
        goes(agent, service)


def test_one_that_is_renamed_or_made_anew_is_updated(client: Any, agent: AgentProcess):
    service, name, new = unique("named"), unique("old"), unique("new")
    with running(client, labels=labelled(service), ports={"4222": None}, name=name) as container:
        comes(agent, service, id=name)
        container.rename(new)
        comes(agent, service, id=new)
        container.remove(force=True)
        labels = labelled(service, capabilities="better")
        with running(client, labels=labels, ports={"4222": None}, name=new) as again:
            comes(agent, service, id=new, port=host_port(again), capabilities=["better"])


# No ghosts


def test_what_ended_while_the_agent_was_away_is_gone_when_it_returns_and_nothing_else(
    client: Any, agent: AgentProcess
):
    gone, kept, other = unique("gone"), unique("kept"), unique("by-hand")
    with (
        running(client, labels=labelled(gone), ports={"4222": None}) as container,
        running(client, labels=labelled(kept), ports={"4222": None}) as stays,
    ):
        comes(agent, gone)
        registered = comes(agent, kept, port=host_port(stays))["registered_at"]
        agent.register(other, port=1)
        agent.kill()
        container.remove(force=True)
        agent.restart()
        goes(agent, gone)
        assert comes(agent, kept)["registered_at"] == registered
        assert instances(agent, other)


def test_what_ends_while_the_engine_is_away_leaves_and_what_began_meanwhile_comes_when_it_returns(
    client: Any, mesh: Mesh, tmp_path: Path
):
    before, gone, new = unique("before"), unique("gone"), unique("new")
    with Relay(tmp_path / "engine.sock") as relay, running(client, labels=labelled(before)):
        agent = mesh.started("jetson", PMOVES_CONTAINERS=str(relay.path))
        with running(client, labels=labelled(gone)):
            comes(agent, gone)
            relay.cut()
            eventually(lambda: bool(agent.logged("containers are not followed")), "it is missed")
        with running(client, labels=labelled(new)):
            assert "containers are not followed" in str(agent.registry["warnings"])
            goes(agent, gone)
            assert instances(agent, before)
            assert not instances(agent, new)
            relay.join()
            comes(agent, new)
            comes(agent, before)
    assert len(agent.logged("containers are followed")) == 2


def test_an_engine_that_is_absent_is_waited_for(client: Any, mesh: Mesh, tmp_path: Path):
    service, relay = unique("awaited"), Relay(tmp_path / "engine.sock")
    agent = mesh.started("jetson", PMOVES_CONTAINERS=str(relay.path))
    eventually(lambda: bool(agent.logged("containers are not followed")), "it is missed")
    with relay, running(client, labels=labelled(service)):
        comes(agent, service, within_s=10)
        assert len(agent.logged("containers are not followed", level="info")) == 1


def test_an_agent_that_no_longer_registers_containers_gives_them_up(client: Any, agent: AgentProcess):
    service, other = unique("given-up"), unique("by-hand")
    with running(client, labels=labelled(service)):
        comes(agent, service)
        agent.register(other, port=1)
        agent.terminate()
        agent.settings["PMOVES_CONTAINERS"] = "off"
        agent.restart()
        goes(agent, service)
        assert instances(agent, other)


# What it does not register


def test_a_registration_that_somebody_else_made_is_never_touched(client: Any, agent: AgentProcess):
    service = unique("taken")
    agent.register(service, id="one", port=7, metadata={"team": "theirs"})
    with running(client, labels=labelled(service, id="one"), name=service):
        eventually(lambda: bool(agent.logged("container not registered", container=service)), "it is said")
        assert instances(agent, service)[0]["port"] == 7
    eventually(lambda: service not in str(agent.registry["warnings"]), "the container is gone")
    assert instances(agent, service)[0]["metadata"] == {"team": "theirs"}


def test_of_two_containers_that_ask_for_the_same_the_first_keeps_it(client: Any, agent: AgentProcess):
    service = unique("contested")
    labels, first, second = labelled(service, id="one"), unique("first"), unique("second")
    with running(client, labels=labels, name=first) as holder:
        comes(agent, service)
        with running(client, labels=labels, name=second):
            eventually(lambda: bool(agent.logged("container not registered", container=second)), "it is said")
            assert instances(agent, service)[0]["metadata"]["container"]["name"] == first
            holder.remove(force=True)
            eventually(
                lambda: instances(agent, service)[0]["metadata"]["container"]["name"] == second,
                "the second takes its place",
            )


@pytest.mark.parametrize(
    ("labels", "ports", "detail"),
    [
        ({"port": "http"}, {}, "pmoves.mesh.port: 'http' is not a port such as 8080 or 53/udp"),
        ({"port": "4222"}, {}, "pmoves.mesh.port: port 4222/tcp of the container is not published"),
        ({}, {"4222": None, "8222": None}, "pmoves.mesh.port: is missing, and several are published"),
        ({"health": "fine"}, {}, "pmoves.mesh.health: 'fine' is not docker, tcp, grpc, none, a path"),
        ({"mode": "sideways"}, {}, "mode: 'sideways' is neither docked nor standalone"),
    ],
)
def test_a_label_that_cannot_be_used_is_one_line_and_one_count(
    client: Any, agent: AgentProcess, labels: dict[str, str], ports: dict[str, Any], detail: str
):
    service = unique("bad")
    counter = 'pmoves_mesh_containers_refused_total{reason="label"}'
    before = counted(agent, counter)
    with running(client, labels=labelled(service, **labels), ports=ports, name=service) as container:
        eventually(lambda: bool(agent.logged("container not registered", container=service)), "it is said")
        container.pause()
        container.unpause()
        eventually(lambda: detail in str(agent.registry["warnings"]), "its status says so too")
        lines = agent.logged("container not registered", container=service)
        assert [line["detail"].startswith(detail) for line in lines] == [True]
        assert counted(agent, counter) >= before + 1
        assert not instances(agent, service)
    eventually(lambda: service not in str(agent.registry["warnings"]), "it is said no longer")


def test_a_misspelt_label_is_named_and_the_rest_holds(client: Any, agent: AgentProcess):
    service = unique("misspelt")
    with running(client, labels=labelled(service, capabilites="rag"), name=service):
        comes(agent, service)
        eventually(
            lambda: bool(
                agent.logged("a label means nothing", container=service, detail="pmoves.mesh.capabilites")
            ),
            "it is named",
        )


def counted(agent: AgentProcess, counter: str) -> float:
    lines = agent.get("/metrics").text.splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(counter))


@pytest.fixture
def podman(tmp_path: Path) -> Iterator[Podman]:
    if problem := podman_problem():
        pytest.skip(problem)
    with Podman(tmp_path / "podman.sock") as made:
        if problem := made.problem():
            pytest.skip(problem)
        yield made


def test_podmans_containers_are_registered_too(podman: Podman, mesh: Mesh):
    service, name, new = unique("podman"), unique("old"), unique("new")
    agent = mesh.started("jetson", PMOVES_CONTAINERS=str(podman.socket))
    with podman.running(name, labelled(service, capabilities="rag")):
        found = comes(agent, service, id=name, health_status="healthy", capabilities=["rag"])
        assert found["port"] == podman.host_port(name)
        podman.run("pause", name)
        goes(agent, service)
        podman.run("unpause", name)
        comes(agent, service)
        podman.run("stop", "--time=0", name)
        goes(agent, service)
        podman.run("start", name)
        comes(agent, service, port=podman.host_port(name))
        podman.run("rename", name, new)
        comes(agent, service, id=new)
        podman.run("rm", "--force", new)
        goes(agent, service)


def test_podmans_service_may_end_and_begin_again(podman: Podman, mesh: Mesh):
    service, name = unique("podman"), unique("ends")
    agent = mesh.started("jetson", PMOVES_CONTAINERS=str(podman.socket))
    with podman.running(name, labelled(service)):
        comes(agent, service)
        podman.stop()
        eventually(lambda: bool(agent.logged("containers are not followed")), "it is missed")
        podman.run("rm", "--force", name)
        goes(agent, service)
        podman.start()
        with podman.running(name, labelled(service)):
            comes(agent, service)
