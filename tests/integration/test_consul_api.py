"""The Consul API of one node: what its clients send, and what it answers while it does not know the mesh."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import aiohttp
import pytest
from builders import MESH, announced, instance, left, lost, registered
from care_support import Cared, cared
from http_support import DEADLINE_S, HOST, Served, eventually, own_address, served

from pmoves_mesh.core.check import TtlCheck
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.listener import Exposure

TOKEN = "a-token-for-tests"

CATALOGUE = (
    "catalog/nodes",
    "catalog/node/alpha",
    "catalog/services",
    "catalog/service/rag",
    "health/service/rag",
    "health/checks/rag",
    "health/node/alpha",
    "health/state/any",
)


class Said(NamedTuple):
    """What came back."""

    status: int
    headers: Any
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def index(self) -> int:
        return int(self.headers["X-Consul-Index"])


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Cared]:
    async with cared(tmp_path, command_checks=False) as made:
        yield made


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as made:
        yield made


async def ask(at: Served | Cared, method: str, path: str, body: Any = None) -> Said:
    session = at.session if isinstance(at, Served) else at.node.session
    url = f"http://{HOST}:{at.port}/v1/{path}"
    data = None if body is None else json.dumps(body)
    async with session.request(method, url, data=data) as answer:
        return Said(answer.status, answer.headers, await answer.text())


async def get(at: Served | Cared, path: str) -> Said:
    return await ask(at, "GET", path)


async def put(at: Served | Cared, path: str, body: Any = None) -> Said:
    return await ask(at, "PUT", path, body)


# What clients send


@pytest.mark.parametrize(
    "body",
    [
        {"ID": "w-1", "Name": "web", "Port": 80, "Tags": ["a"], "EnableTagOverride": True,
         "Check": {"TTL": "15s", "CheckID": "w", "DeregisterCriticalServiceAfter": "1m30s"}},
        {"id": "w-1", "name": "web", "port": 80, "tags": ["a"], "enabletagoverride": True,
         "check": {"ttl": "15s", "checkid": "w", "deregistercriticalserviceafter": "1m30s"}},
        {"id": "w-1", "name": "web", "port": "80", "tags": ["a"], "enable_tag_override": True,
         "checks": [{"ttl": "15s", "check_id": "w", "deregister_critical_service_after": "90s"}]},
        {"ID": "w-1", "Name": "web", "Port": 80, "Tags": ["a"], "EnableTagOverride": True, "Meta": None,
         "Address": "", "Check": None, "Kind": "", "Connect": None, "Proxy": None,
         "Checks": [{"TTL": 15_000_000_000, "CheckID": "w", "DeregisterCriticalServiceAfter": "90s"}]},
    ],
    ids=["PascalCase", "lower case", "snake_case", "Go"],
)  # fmt: skip
async def test_bodies_are_read_however_their_keys_are_spelled(node: Cared, body: Any):
    assert (await put(node, "agent/service/register", body)).status == 200
    (one,) = (await get(node, "agent/services")).body.values()
    assert {key: one[key] for key in ("ID", "Service", "Port", "Tags", "EnableTagOverride")} == {
        "ID": "w-1", "Service": "web", "Port": 80, "Tags": ["a"], "EnableTagOverride": True
    }  # fmt: skip
    (check,) = (await get(node, "agent/checks")).body.values()
    assert (check["CheckID"], check["Status"], check["ServiceID"]) == ("w", "critical", "w-1")
    (record,) = (await node.ask("GET", "/api/services?name=web")).body["services"]
    assert record["capabilities"] == ["a"]
    held = node.node.registrations.held[InstanceKey("web", "alpha", "w-1")]
    assert held.check == TtlCheck(ttl_s=15, remove_after_s=90)


async def test_what_fabio_sends_is_answered(node: Cared):
    tags = ["urlprefix-/shop strip=/shop"]
    await put(node, "agent/service/register", {"Name": "fabio", "ID": "fabio-x", "Tags": tags, "Port": 9998,
              "Check": {"TTL": "30s", "Status": "passing"}})  # fmt: skip
    assert (
        await put(node, "agent/check/update/service:fabio-x", {"Status": "warning", "Output": "hot"})
    ).status == 200
    states = (await get(node, "health/state/any?index=0&wait=120000ms")).body
    (check,) = [one for one in states if one["ServiceID"]]
    assert (check["Status"], check["Output"], check["ServiceTags"]) == ("warning", "hot", tags)
    (row,) = (await get(node, "catalog/service/fabio")).body
    assert (row["ServiceID"], row["ServiceTags"], row["Node"]) == ("fabio-x", tags, "alpha")
    assert list((await get(node, "agent/services")).body) == ["fabio-x"]
    assert (await get(node, "agent/self")).body["Config"]["Datacenter"] == MESH


async def test_what_spring_cloud_sends_is_answered(node: Cared):
    await put(node, "agent/service/register", {"ID": "app-8080", "Name": "app", "Port": 8080, "Tags": [],
              "Meta": {"secure": "false"}, "Address": HOST, "Check": {"TTL": "30s"}})  # fmt: skip
    assert (await put(node, "agent/check/pass/service:app-8080?note=")).status == 200
    (one,) = (await get(node, "health/service/app?passing&wait=2s&index=")).body
    assert (one["Service"]["Address"], one["Service"]["Meta"]) == (HOST, {"secure": "false"})
    assert (await put(node, "agent/service/maintenance/app-8080?enable=true&reason=deploy")).status == 200
    assert (await get(node, "health/service/app?passing=true")).body == []
    (check,) = [one for one in (await get(node, "health/checks/app")).body if "_service" in one["CheckID"]]
    assert (check["CheckID"], check["Output"]) == ("_service_maintenance:app-8080", "deploy")
    assert (await put(node, "agent/service/maintenance/app-8080?enable=false")).status == 200
    assert (await put(node, "agent/check/fail/service:app-8080")).status == 200
    assert (await put(node, "agent/service/deregister/app-8080")).status == 200
    for path in ("status/leader", "status/peers", "catalog/datacenters", "catalog/nodes", "catalog/services"):
        assert (await get(node, path)).status == 200


async def test_what_consul_template_sends_is_answered(node: Cared):
    query = "?index=1&stale=&wait=60000ms"
    for path in ("catalog/datacenters", *CATALOGUE[:5], "agent/self"):
        assert (await get(node, path + query)).status == 200


# What is refused


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "Name"),
        ({"Name": "web", "Port": 70000}, "port"),
        ({"Name": "web", "Port": "many"}, "port"),
        ({"Name": "web", "Check": {"UDP": "127.0.0.1:1"}}, "udp"),
        ({"Name": "web", "Check": {"HTTP": "http://example.com/", "TCP": "127.0.0.1:1"}}, "more than one"),
        ({"Name": "web", "Check": {"HTTP": "ftp://127.0.0.1/"}}, "http"),
        ({"Name": "web", "Check": {"HTTP": "http://192.0.2.7/"}}, "neither the service's own"),
        ({"Name": "web", "Check": {"TCP": "192.0.2.7:80"}}, "neither the service's own"),
        ({"Name": "web", "Check": {"TTL": "soon"}}, "duration"),
        ({"Name": "web", "Check": {"TTL": "5s", "Status": "well"}}, "none of passing"),
        ({"Name": "web", "Checks": [{"TTL": "5s"}, {"TTL": "6s"}]}, "one check"),
        ({"Name": "web", "Check": {"Args": ["true"]}}, "PMOVES_COMMAND_CHECKS"),
        ({"Name": "web", "Meta": {"a b": "c"}}, "Meta"),
        ({"Name": "web", "Kind": "connect-proxy"}, "Kind"),
        ([], "body"),
    ],
)
async def test_what_cannot_be_registered_is_refused_with_the_reason(node: Cared, body: Any, reason: str):
    answer = await put(node, "agent/service/register", body)
    assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (400, "text/plain")
    assert reason in answer.text
    assert (await get(node, "agent/services")).body == {}


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "agent/service/deregister/nobody", 404),
        ("PUT", "agent/check/deregister/nobody", 404),
        ("PUT", "agent/check/pass/nobody", 404),
        ("PUT", "agent/service/maintenance/nobody?enable=true", 404),
        ("PUT", "agent/maintenance", 400),
        ("GET", "agent/service/nobody", 404),
        ("GET", "health/state/perhaps", 400),
        ("GET", "catalog/nodes?dc=elsewhere", 500),
        ("GET", "catalog/nodes?index=many", 400),
        ("GET", "catalog/nodes?wait=long", 400),
        ("GET", "catalog/nodes?filter=Nothing+is+empty", 400),
        ("GET", "health/service/rag?passing=perhaps", 400),
        ("GET", "nothing/at/all", 404),
        ("GET", "kv/a/b?raw", 501),
        ("PUT", "session/create", 501),
    ],
)
async def test_what_is_not_there_is_told_in_plain_text(node: Cared, method: str, path: str, status: int):
    answer = await ask(node, method, path)
    assert (answer.status, answer.headers["Content-Type"].split(";")[0]) == (status, "text/plain")
    assert answer.text


async def test_another_nodes_services_are_not_written_to(node: Cared):
    await node.node.tell(announced(1, node="beta"))
    body = {"Node": "beta", "Address": "192.0.2.1", "Service": {"Service": "web"}}
    assert (await put(node, "catalog/register", body)).status == 409
    assert (await put(node, "catalog/deregister", {"Node": "beta"})).status == 409


@pytest.mark.parametrize(
    ("query", "headers", "status"),
    [
        ("", {}, 403),
        ("", {"X-Consul-Token": TOKEN}, 200),
        (f"?token={TOKEN}", {}, 200),
        ("", {"Authorization": f"Bearer {TOKEN}"}, 200),
        ("", {"X-Consul-Token": f"{TOKEN}x"}, 403),
        ("?token=", {}, 403),
        (f"?token={TOKEN}", {"Origin": "http://example.com"}, 403),
    ],
)
async def test_a_write_from_another_host_needs_the_token_in_any_of_three_ways(
    tmp_path: Path, query: str, headers: dict[str, str], status: int
):
    address = own_address()
    async with (
        served(tmp_path, token=TOKEN) as mesh,
        serving(mesh.facade, address, 0, exposure=Exposure(insecure=True)) as port,
        aiohttp.ClientSession() as session,
    ):
        url = f"http://{address}:{port}/v1/agent/service/register{query}"
        async with session.put(url, json={"Name": "web"}, headers=headers) as answer:
            assert answer.status == status
            assert TOKEN not in await answer.text()
        async with session.post(
            f"http://{address}:{port}/api/services?token={TOKEN}", json={"name": "web"}
        ) as other:
            assert other.status == 401, "the other ways are Consul's alone"


# What it knows


@pytest.mark.parametrize("path", CATALOGUE)
async def test_a_replica_that_never_saw_the_mesh_has_no_leader(tmp_path: Path, path: str):
    async with served(tmp_path, connected=False) as mesh:
        answer = await get(mesh, path)
        assert (answer.status, answer.text) == (500, "No cluster leader")
        assert (await get(mesh, "status/leader")).body == ""
        assert (await put(mesh, "agent/service/register", {"Name": "web"})).status == 200
        assert list((await get(mesh, "agent/services")).body) == ["web"]


@pytest.mark.parametrize("path", CATALOGUE)
async def test_a_replica_says_whether_it_is_current(mesh: Served, path: str):
    answer = await get(mesh, path)
    assert answer.headers["X-Consul-KnownLeader"] == "true"
    assert answer.headers["X-Consul-LastContact"] == "0"
    assert answer.index >= 1
    mesh.client.disconnect()
    await mesh.is_not_current()
    answer = await get(mesh, f"{path}?stale")
    assert (answer.status, answer.headers["X-Consul-KnownLeader"]) == (200, "false")

    async def grows() -> bool:
        return int((await get(mesh, path)).headers["X-Consul-LastContact"]) > 0

    await eventually(grows, "it tells how old its knowledge is")
    answer = await get(mesh, f"{path}?consistent")
    assert (answer.status, answer.text) == (500, "No cluster leader")


async def test_an_answer_from_memory_says_so_if_it_may_be_one(mesh: Served):
    answer = await get(mesh, "health/service/rag?cached")
    assert (answer.headers["X-Cache"], answer.headers["Age"]) == ("HIT", "0")


async def test_the_id_of_a_node_is_the_same_for_ever(mesh: Served):
    await mesh.tell(announced(1, node="beta"))
    (found,) = [one for one in (await get(mesh, "catalog/nodes")).body if one["Node"] == "beta"]
    assert found["ID"] == "7f4cf2d4-166c-5590-b18f-c735661c4b99"


async def test_what_was_registered_elsewhere_is_shown_in_consuls_words(mesh: Served):
    record = instance(
        "rag", "beta", "one", port=9000, capabilities=("rag", "gpu:rtx5090"), health_status="healthy",
        metadata={"n": 1, "env": "qa"},
    )  # fmt: skip
    await mesh.tell(announced(1, node="beta"), registered(2, record))
    (found,) = (
        await get(mesh, "health/service/rag?tag=rag&tag=gpu:RTX5090&node-meta=mode:docked&near=_agent")
    ).body
    service = found["Service"]
    assert (service["ID"], service["Tags"]) == ("rag:one", ["rag", "gpu:rtx5090"])
    assert (service["Address"], service["Meta"]) == ("", {"n": "1", "env": "qa"})
    assert found["Node"]["Address"] == "beta.example"
    assert [(one["CheckID"], one["Status"]) for one in found["Checks"]] == [
        ("serfHealth", "passing"),
        ("service:rag:one", "passing"),
    ]
    assert (await get(mesh, "health/service/rag?tag=other")).body == []
    assert (await get(mesh, "health/service/rag?node-meta=mode:standalone")).body == []


async def test_the_instances_of_a_node_come_first_if_they_are_near(mesh: Served):
    for node in ("beta", "gamma"):
        await mesh.tell(announced(1, node=node), registered(2, instance("rag", node)))
    await put(mesh, "agent/service/register", {"Name": "rag"})
    for near, order in (
        ("", ["alpha", "beta", "gamma"]),
        ("gamma", ["gamma", "alpha", "beta"]),
        ("_agent", ["alpha", "beta", "gamma"]),
    ):
        found = (await get(mesh, f"catalog/service/rag?near={near}")).body
        assert [one["Node"] for one in found] == order
    assert next(one["Node"] for one in (await get(mesh, "catalog/nodes?near=gamma")).body) == "gamma"


async def test_the_catalogue_is_written_to_for_this_node_and_for_others(mesh: Served):
    """What is written for this node is its own service; a check there is the status that it is given."""
    body = {"Service": {"Service": "web", "ID": "web-1"}}
    own = {"Node": "alpha", "Address": "10.0.0.1", **body}
    check = {"Name": "asked elsewhere", "CheckID": "far", "Status": "critical", "Output": "refused"}
    outside = {"Node": "Far-Away", "Address": "192.0.2.5", "NodeMeta": {"rack": "7"}, "Check": check, **body}
    for wanted in (own, outside):
        answer = await put(mesh, "catalog/register", wanted)
        assert (answer.status, answer.body) == (200, True)
    assert list((await get(mesh, "agent/services")).body) == ["web-1"]
    (far,) = (await get(mesh, "health/service/web?node-meta=rack:7")).body
    assert (far["Node"]["Node"], far["Node"]["Address"]) == ("Far-Away", "192.0.2.5")
    assert [(one["CheckID"], one["Status"], one["Output"]) for one in far["Checks"]] == [
        ("far", "critical", "refused")
    ]
    listed = (await mesh.get("/api/services?name=web&node=alpha")).body["services"]
    assert {one["host"] for one in listed} == {"10.0.0.1", "192.0.2.5"}
    better = {**outside, "Check": {**check, "Status": "passing"}}
    await put(mesh, "catalog/register", better)
    assert len((await get(mesh, "health/service/web?passing&node-meta=rack:7")).body) == 1
    await put(mesh, "catalog/deregister", {"Node": "Far-Away", "CheckID": "far"})
    (far,) = (await get(mesh, "health/service/web?node-meta=rack:7")).body
    assert far["Checks"] == []
    await put(mesh, "catalog/deregister", {"Node": "Far-Away"})
    await put(mesh, "catalog/deregister", {"Node": "alpha", "ServiceID": "web-1"})
    assert (await get(mesh, "catalog/service/web")).body == []
    assert (await put(mesh, "catalog/deregister", {"Node": "alpha"})).status == 400
    assert (await put(mesh, "catalog/register", {"Node": "x", "Address": "192.0.2.5"})).status == 400


async def test_nobody_speaks_for_another_node_or_under_another_name(mesh: Served):
    """What a node says of its instance beside its record is its own word, and proves nothing of others."""
    claim = {"id": "x", "service": "billing", "node": {"name": "alpha", "address": "192.0.2.66"}}
    record = instance("rag", "beta", metadata={"consul:registration": claim})
    await mesh.tell(announced(1, node="beta"), registered(2, record))
    await put(mesh, "agent/service/register", {"Name": "own"})
    (found,) = (await get(mesh, "health/service/rag")).body
    assert (found["Node"]["Node"], found["Service"]["Service"]) == ("beta", "rag")
    assert set((await get(mesh, "catalog/services")).body) == {"rag", "own"}
    assert list((await get(mesh, "catalog/node/alpha")).body["Services"]) == ["own"]


async def test_what_is_no_registration_of_a_consul_client_is_plain_metadata(mesh: Served):
    record = instance("rag", "beta", metadata={"consul:registration": "mine"})
    await mesh.tell(announced(1, node="beta"), registered(2, record))
    (found,) = (await get(mesh, "health/service/rag")).body
    assert (found["Service"]["ID"], found["Service"]["Meta"]) == ("rag:1", {"consul:registration": "mine"})


async def test_a_lost_node_is_critical_and_one_that_left_is_gone(mesh: Served):
    rag = registered(2, instance("rag", "beta"))
    await mesh.tell(announced(1, node="omega"), announced(1, node="beta"), rag)
    await mesh.replica.wait_position(mesh.publish(lost(2, "beta"), by="omega"), DEADLINE_S)
    (check,) = (await get(mesh, "health/node/beta")).body
    assert (check["CheckID"], check["Status"]) == ("serfHealth", "critical")
    assert (await get(mesh, "health/service/rag?passing")).body == []
    assert len((await get(mesh, "health/service/rag")).body) == 1
    await mesh.tell(announced(3, node="beta"), left(4, "beta"))
    assert (await get(mesh, "health/service/rag")).body == []
    assert (await get(mesh, "catalog/node/beta")).body is None


# Blocking queries


async def test_an_index_moves_only_with_its_own_answer(mesh: Served):
    record = instance("rag", "beta", health_status="healthy", health_output="fine")
    await mesh.tell(announced(1, node="beta"), registered(2, record))
    before = {path: (await get(mesh, path.replace("alpha", "beta"))).index for path in CATALOGUE}

    async def moved() -> set[str]:
        after = {path: (await get(mesh, path.replace("alpha", "beta"))).index for path in CATALOGUE}
        assert all(after[path] >= before[path] for path in CATALOGUE)
        found = {path for path in CATALOGUE if after[path] != before[path]}
        before.update(after)
        return found

    assert await moved() == set()
    await mesh.tell(
        registered(3, instance("rag", "beta", health_status="healthy", health_output="very fine"))
    )
    assert await moved() == set(), "what a check says is no difference"
    await mesh.tell(registered(4, instance("rag", "beta", health_status="unhealthy")))
    assert await moved() == {
        "health/service/rag",
        "health/checks/rag",
        "health/node/alpha",
        "health/state/any",
    }
    await mesh.tell(registered(5, instance("whisper", "beta")))
    assert await moved() == {"catalog/services", "catalog/node/alpha"}
    await mesh.tell(registered(6, instance("rag", "beta", health_status="unhealthy", port=1)))
    assert await moved() == {"catalog/node/alpha", "catalog/service/rag", "health/service/rag"}


@pytest.mark.parametrize("path", CATALOGUE)
async def test_a_reader_waits_until_its_answer_changes(mesh: Served, path: str):
    index = (await get(mesh, path)).index
    waiting = asyncio.create_task(get(mesh, f"{path}?index={index}&wait=120000ms"))

    async def waits() -> bool:
        return mesh.facade.readers["polls"]() == 1

    await eventually(waits, "it waits")
    assert (
        await put(mesh, "agent/service/register", {"Name": "rag", "Check": {"Status": "passing"}})
    ).status == 200
    await mesh.tell(announced(1, node="beta"), registered(2, instance("rag", "beta")))
    answer = await asyncio.wait_for(waiting, DEADLINE_S)
    assert (answer.status, answer.index > index) == (200, True)


async def test_the_maintenance_of_a_node_without_services_is_waited_for(node: Cared):
    await put(node, "agent/service/register", {"Name": "web"})
    await put(node, "agent/service/deregister/web")
    before = (await get(node, "health/node/alpha")).index
    assert (await put(node, "agent/maintenance?enable=true&reason=new+disk")).status == 200
    answer = await get(node, f"health/node/alpha?index={before}&wait=60s")
    assert [one["CheckID"] for one in answer.body if one["Status"] == "critical"] == ["_node_maintenance"]
    assert (await node.put("/api/nodes/alpha/maintenance", on=False)).status == 200
    answer = await get(node, f"health/node/alpha?index={answer.index}&wait=60s")
    assert [one for one in answer.body if one["CheckID"] == "_node_maintenance"] == []


async def test_a_wait_ends_with_the_same_index_when_its_time_is_over(mesh: Served):
    index = (await get(mesh, "catalog/services")).index
    assert (await get(mesh, f"catalog/services?index={index}&wait=100ms")).index == index


async def test_a_service_is_awaited_by_its_hash(mesh: Served):
    await put(mesh, "agent/service/register", {"Name": "web", "Port": 1})
    first = await get(mesh, "agent/service/web")
    given = first.headers["X-Consul-ContentHash"]
    assert first.body["ContentHash"] == given
    waiting = asyncio.create_task(get(mesh, f"agent/service/web?hash={given}"))

    async def waits() -> bool:
        return mesh.facade.readers["polls"]() == 1

    await eventually(waits, "it waits")
    await put(mesh, "agent/service/register", {"Name": "web", "Port": 2})
    answer = await asyncio.wait_for(waiting, DEADLINE_S)
    assert (answer.body["Port"], answer.body["ContentHash"] != given) == (2, True)


# Filters


@pytest.mark.parametrize(
    ("path", "expression", "count"),
    [
        ("health/service/rag", 'Service.Port == 1 and Checks.CheckID == "serfHealth"', 1),
        ("health/service/rag", "Service.Port == 3", 0),
        ("health/checks/rag", "Status == passing", 2),
        ("health/state/any", "ServiceName == rag", 2),
        ("health/node/alpha", "CheckID == serfHealth", 1),
        ("catalog/service/rag", "ServicePort != 1", 1),
        ("catalog/services", 'ServiceTags contains "one"', 1),
        ("catalog/nodes", "Meta.mode == docked", 1),
        ("agent/services", 'ID matches "1$"', 1),
        ("agent/checks", "ServiceID is not empty", 2),
        ("agent/members", "Name == beta", 1),
    ],
)
async def test_filters_are_heeded_wherever_there_is_a_list(
    mesh: Served, path: str, expression: str, count: int
):
    await mesh.tell(announced(1, node="beta"))
    for number, tag in ((1, "one"), (2, "two")):
        check = {"Status": "passing", "CheckID": f"c{number}"}
        await put(mesh, "agent/service/register", {"Name": "rag", "ID": f"r{number}", "Port": number,
                  "Tags": [tag], "Check": check})  # fmt: skip
    found = await get(mesh, f"{path}?filter={quote(expression)}")
    assert (found.status, len(found.body)) == (200, count), found.text
