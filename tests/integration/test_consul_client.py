"""A real Consul client, py-consul, against a real agent: everything that it can do there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import consul
import pytest
from agents import AgentProcess, eventually, mesh_in
from probe_targets import grpc_server

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AgentProcess, AgentProcess]]:
    with mesh_in(tmp_path_factory.mktemp("consul")) as mesh:
        yield mesh.started("alpha", PMOVES_COMMAND_CHECKS="1"), mesh.started("beta")


def client_of(agent: AgentProcess) -> consul.Consul:
    return consul.Consul(host="127.0.0.1", port=int(agent.url.rpartition(":")[2]))


@pytest.fixture
def client(agents: tuple[AgentProcess, AgentProcess]) -> consul.Consul:
    return client_of(agents[0])


@pytest.fixture
def other(agents: tuple[AgentProcess, AgentProcess]) -> consul.Consul:
    return client_of(agents[1])


def health(client: consul.Consul, service: str, **asked: Any) -> list[dict[str, Any]]:
    _, found = client.health.service(service, **asked)
    return list(found)


def status(client: consul.Consul, service: str) -> dict[str, str]:
    """Returns the status of each check of the only instance of a service."""
    (one,) = health(client, service)
    return {check["CheckID"]: check["Status"] for check in one["Checks"]}


def test_it_finds_who_is_there(client: consul.Consul, agents: tuple[AgentProcess, AgentProcess]):
    mesh = agents[0].get("/").body["mesh"]
    assert client.status.leader() in client.status.peers()
    assert client.catalog.datacenters() == [mesh]
    me = client.agent.self()
    assert (me["Config"]["Datacenter"], me["Config"]["NodeName"], me["Member"]["Name"]) == (
        mesh,
        "alpha",
        "alpha",
    )
    assert [(one["Name"], one["Status"]) for one in client.agent.members()] == [("alpha", 1), ("beta", 1)]
    index, nodes = client.catalog.nodes()
    assert int(index) >= 1
    assert [node["Node"] for node in nodes] == ["alpha", "beta"]
    assert nodes[0]["ID"] == me["Config"]["NodeID"]
    assert [check["CheckID"] for check in client.health.node("beta")[1]] == ["serfHealth"]
    assert client.catalog.node("nobody")[1] is None


def test_a_service_is_registered_found_everywhere_and_gone_again(client: consul.Consul, other: consul.Consul):
    assert client.agent.service.register(
        "whisper", "whisper/one.1", port=9000, tags=["stt", "not, a capability"], meta={"env": "qa"}
    )
    eventually(lambda: len(health(other, "whisper")) == 1, "the other agent shows it")
    (one,) = health(other, "whisper", passing=True, tag="STT")
    assert one["Service"]["ID"] == "whisper/one.1"
    assert one["Service"]["Tags"] == ["stt", "not, a capability"]
    assert (one["Service"]["Meta"], one["Service"]["Address"]) == ({"env": "qa"}, "")
    assert one["Node"]["Node"] == "alpha"
    assert one["Node"]["Address"]
    assert client.agent.services()["whisper/one.1"]["Service"] == "whisper"
    assert other.agent.services() == {}
    assert other.catalog.services()[1]["whisper"] == ["not, a capability", "stt"]
    (flat,) = other.catalog.service("whisper", tag="stt")[1]
    assert (flat["ServiceID"], flat["ServicePort"], flat["Node"]) == ("whisper/one.1", 9000, "alpha")
    assert list(other.catalog.node("alpha")[1]["Services"]) == ["whisper/one.1"]
    assert client.agent.service.deregister("whisper/one.1")
    eventually(lambda: health(other, "whisper") == [], "it is gone there too")


def test_an_id_that_is_registered_again_under_another_name_moves(client: consul.Consul):
    client.agent.service.register("Old_Name", "moving", port=1)
    assert next(iter(client.agent.services().values()))["Service"] == "Old_Name"
    client.agent.service.register("new-name", "moving", port=1)
    assert health(client, "Old_Name") == []
    assert len(health(client, "new-name")) == 1
    client.agent.service.deregister("moving")


def test_a_service_reports_by_itself(client: consul.Consul, other: consul.Consul):
    check = consul.Check.ttl("10m")
    client.agent.service.register("reporting", port=1, check=check)
    name = "service:reporting"
    assert status(client, "reporting") == {"serfHealth": "passing", name: "critical"}
    assert health(client, "reporting", passing=True) == []
    for tell, expected in (
        (client.agent.check.ttl_pass, "passing"),
        (client.agent.check.ttl_warn, "warning"),
        (client.agent.check.ttl_fail, "critical"),
        (client.agent.check.ttl_warn, "warning"),
        (client.agent.check.ttl_pass, "passing"),
    ):
        assert tell(name, notes=f"I am {expected}")
        assert status(client, "reporting")[name] == expected
    eventually(lambda: status(other, "reporting").get(name) == "passing", "the other agent shows it")
    assert client.agent.checks()[name]["ServiceID"] == "reporting"
    assert [one["CheckID"] for one in client.health.checks("reporting")[1]] == [name]
    client.agent.service.register("reporting", port=1, check=check)
    assert status(client, "reporting")[name] == "passing"
    client.agent.service.deregister("reporting")


def test_a_check_is_registered_by_itself_and_made(client: consul.Consul):
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
        client.agent.service.register("checked", port=port, address="127.0.0.1")
        check = consul.Check.tcp("127.0.0.1", port, "1s")
        assert client.agent.check.register("is it open", check_id="open", service_id="checked", check=check)
        eventually(lambda: status(client, "checked")["open"] == "passing", "it is found well")
    eventually(lambda: status(client, "checked")["open"] == "critical", "it is found ill")
    assert [one["ServiceID"] for one in client.health.state("critical")[1]] == ["checked"]
    assert client.agent.check.deregister("open")
    assert list(status(client, "checked")) == ["serfHealth"]
    client.agent.service.deregister("checked")


def checked(client: consul.Consul, service: str) -> str:
    """Returns the status of a service's check; empty until it was made."""
    check = client.agent.checks()[f"service:{service}"]
    return "" if check["Output"] == "not checked yet" else str(check["Status"])


def test_http_and_scripts_are_asked(client: consul.Consul, agents: tuple[AgentProcess, AgentProcess]):
    url = f"{agents[0].url}/healthz".replace("localhost", "127.0.0.1")
    checks = {
        "by-http": consul.Check.http(url, "1s"),
        "by-script": consul.Check.script(["sh", "-c", "exit 0"], "1s"),
        "by-failing-script": {"Args": ["sh", "-c", "exit 2"], "Interval": "1s", "FailuresBeforeCritical": 1},
    }
    for name, check in checks.items():
        client.agent.service.register(name, port=1, address="127.0.0.1", check=check)
    for name, expected in (
        ("by-http", "passing"),
        ("by-script", "passing"),
        ("by-failing-script", "critical"),
    ):
        eventually(
            lambda name=name, expected=expected: checked(client, name) == expected,  # type: ignore[misc]
            f"{name} is {expected}",
        )
        client.agent.service.deregister(name)


def test_a_grpc_server_is_asked(client: consul.Consul):
    with grpc_server() as port:
        for service, expected in (("rag.Search", "passing"), ("rag.Index", "critical")):
            check = consul.Check.grpc(f"127.0.0.1:{port}/{service}", "1s") | {"FailuresBeforeCritical": 1}
            client.agent.service.register("by-grpc", port=port, address="127.0.0.1", check=check)
            eventually(
                lambda expected=expected: checked(client, "by-grpc") == expected,  # type: ignore[misc]
                f"{service} is {expected}",
            )
            client.agent.service.deregister("by-grpc")


def test_what_stays_critical_is_deregistered(client: consul.Consul):
    check = {"TTL": "1s", "DeregisterCriticalServiceAfter": "1s", "Status": "passing"}
    client.agent.service.register("dying", port=1, check=check)
    assert status(client, "dying")["service:dying"] == "passing"
    eventually(lambda: health(client, "dying") == [], "it is deregistered")


def test_an_instance_and_the_whole_node_are_in_maintenance(client: consul.Consul, other: consul.Consul):
    client.agent.service.register("resting", "resting-1", port=1)
    assert client.agent.service.maintenance("resting-1", "true", "new disk")
    assert status(client, "resting")["_service_maintenance:resting-1"] == "critical"
    eventually(lambda: health(other, "resting", passing=True) == [], "the other agent hides it")
    assert client.agent.service.maintenance("resting-1", "false")
    assert list(status(client, "resting")) == ["serfHealth"]
    assert client.agent.maintenance("true", "moving house")
    assert status(client, "resting")["_node_maintenance"] == "critical"
    assert client.agent.checks()["_node_maintenance"]["Output"] == "moving house"
    assert health(client, "resting", passing=True) == []
    assert client.agent.maintenance("false")
    assert len(health(client, "resting", passing=True)) == 1
    client.agent.service.deregister("resting-1")


def test_a_blocking_query_is_answered_by_the_change_that_it_waits_for(
    client: consul.Consul, other: consul.Consul
):
    """The loop that clients run: ask with the index of the last answer, again and again."""
    seen: list[tuple[int, list[str]]] = []
    ended = threading.Event()

    def follow() -> None:
        index: Any = None
        while not ended.is_set():
            index, found = other.health.service("watched", index=index, wait="60s", passing=True)
            seen.append((int(index), sorted(one["Service"]["ID"] for one in found)))

    follower = threading.Thread(target=follow)
    follower.start()
    try:
        for wanted in (["one"], ["one", "two"]):
            client.agent.service.register("elsewhere", port=1)
            client.agent.service.register("watched", wanted[-1], port=len(wanted))
            eventually(lambda wanted=wanted: bool(seen) and seen[-1][1] == wanted, f"{wanted} is told of")  # type: ignore[misc]
        client.agent.service.deregister("elsewhere")
        client.agent.service.deregister("one")
        eventually(lambda: seen[-1][1] == ["two"], "the end of one is told of")
    finally:
        ended.set()
        client.agent.service.deregister("two")
        follower.join()
    indexes = [index for index, _ in seen]
    assert indexes == sorted(set(indexes)), "an index that stands still, or goes back, was told for nothing"
    assert [found for _, found in seen] == [[], ["one"], ["one", "two"], ["two"], []]


def test_a_service_outside_the_mesh_is_written_to_the_catalogue(client: consul.Consul, other: consul.Consul):
    service = {"Service": "redis", "ID": "redis-1", "Port": 6379, "Tags": ["primary"]}
    assert client.catalog.register("database", "192.0.2.10", service=service)
    assert client.catalog.register("database-2", "192.0.2.11", service=service)
    eventually(lambda: len(health(other, "redis")) == 2, "the other agent shows both")
    first, second = other.catalog.service("redis")[1]
    assert (first["Node"], first["Address"], first["ServiceAddress"]) == ("database", "192.0.2.10", "")
    assert (second["Node"], first["ServiceID"], second["ServiceID"]) == ("database-2", "redis-1", "redis-1")
    assert "redis-1" not in client.agent.services()
    assert client.catalog.deregister("database", service_id="redis-1")
    assert client.catalog.deregister("database-2")
    eventually(lambda: health(other, "redis") == [], "both are gone")


def test_what_was_registered_outlives_its_agent_and_an_index_goes_on(tmp_path: Path):
    with mesh_in(tmp_path) as mesh:
        agent = mesh.started("alpha")
        client = client_of(agent)
        check = {**consul.Check.ttl("10m"), "DeregisterCriticalServiceAfter": "1h"}
        client.agent.service.register("Kept_Well", "kept/1", port=1, tags=["a=b"], check=check)
        client.agent.check.ttl_warn("service:kept/1", notes="hot")
        index, (before,) = client.health.service("Kept_Well")
        assert before["Checks"][1]["Status"] == "warning"
        agent.kill()
        client = client_of(agent.restart())
        again, (after,) = client.health.service("Kept_Well")
        for one in (before, after):
            for part in (one["Node"], one["Service"], *one["Checks"]):
                part.pop("ModifyIndex")
                part.pop("CreateIndex")
        assert after == before
        assert int(again) > int(index)


def test_filters_are_heeded(client: consul.Consul):
    for number in ("1", "2"):
        client.agent.service.register("sorted", f"sorted-{number}", port=int(number), meta={"n": number})
    found = health(client, "sorted", filter_expr='Service.Meta.n == "2" and Checks.Status != critical')
    assert [one["Service"]["ID"] for one in found] == ["sorted-2"]
    assert list(client.agent.services(filter_expr='ID matches "sorted-[1]$"')) == ["sorted-1"]
    with pytest.raises(consul.exceptions.BadRequest, match="filter"):
        health(client, "sorted", filter_expr="Service.Nothing == 1")
    for number in ("1", "2"):
        client.agent.service.deregister(f"sorted-{number}")


def test_a_store_of_keys_is_said_to_be_missing(client: consul.Consul):
    with pytest.raises(consul.ConsulException, match="501"):
        client.kv.get("anything")
