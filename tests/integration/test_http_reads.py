from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import announced, instance, left, line, lost, registered
from http_support import DEADLINE_S, HOST, NODE, Served, served

from pmoves_mesh.core.query import InstanceView, NodeView
from pmoves_mesh.views.http import answers, listing
from pmoves_mesh.views.http.shapes import NodeAnswer, NodeList, ServiceAnswer, ServiceList, Status


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    """Three nodes: whisper on two of them, rag on one, and a lost one."""
    async with served(tmp_path) as here:
        await here.tell(
            registered(1, instance("whisper", "beta", "1", port=9000, capabilities=("stt", "gpu"))),
            registered(
                2, instance("whisper", "beta", "2", port=9001, capabilities=("stt",), mode="standalone")
            ),
            registered(1, instance("whisper", "gamma", "1", port=9000, health_status="healthy")),
            registered(2, instance("rag", "gamma", "1", port=8086, capabilities=("rag", "stt"))),
            registered(1, instance("jellyfin", "delta", "1", port=8096, health_status="healthy")),
        )
        await here.tell(announced(3, [line(1, "whisper"), line(2, "whisper", "2")], node="beta"))
        position = here.publish(lost(1, "delta", "beta"), by="beta")
        await here.replica.wait_position(position, DEADLINE_S)
        yield here


def keys(services: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(one["name"], one["node"], one["id"]) for one in services]


async def test_the_root_names_the_registry_and_its_endpoints(mesh: Served):
    answer = await mesh.get("/")
    assert answer.status == 200
    assert answer.body["name"] == "service-registry"
    assert (answer.body["mesh"], answer.body["node"]) == ("pmoves-mesh", NODE)
    assert "POST /api/services" in answer.body["endpoints"]


async def test_a_listing_has_every_instance_by_service_node_and_id_lost_nodes_included(mesh: Served):
    answer = await mesh.get("/api/services")
    assert answer.status == 200
    assert answer.body["count"] == 5
    assert keys(answer.body["services"]) == [
        ("jellyfin", "delta", "1"),
        ("rag", "gamma", "1"),
        ("whisper", "beta", "1"),
        ("whisper", "beta", "2"),
        ("whisper", "gamma", "1"),
    ]
    assert answer.body["services"][0]["node_status"] == "lost"
    assert answer.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("mode=standalone", [("whisper", "beta", "2")]),
        ("mode=STANDALONE&unknown=1", [("whisper", "beta", "2")]),
        ("capability=stt&node=beta", [("whisper", "beta", "1"), ("whisper", "beta", "2")]),
        ("capability=stt&capability=gpu", [("whisper", "beta", "1")]),
        ("capability=stt,%20gpu,", [("whisper", "beta", "1")]),
        ("healthy_only=true", [("whisper", "gamma", "1")]),
        ("healthy_only", [("whisper", "gamma", "1")]),
        ("healthy_only=YES&name=Whisper", [("whisper", "gamma", "1")]),
        ("name=rag&mode=&capability=&node=", [("rag", "gamma", "1")]),
        ("healthy_only=0&node=delta", [("jellyfin", "delta", "1")]),
        ("name=absent", []),
        ("capability=absent", []),
    ],
)
async def test_a_listing_is_narrowed_by_its_parameters(
    mesh: Served, query: str, expected: list[tuple[str, str, str]]
):
    answer = await mesh.get(f"/api/services?{query}")
    assert answer.status == 200
    assert keys(answer.body["services"]) == expected
    assert answer.body["count"] == len(expected)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("mode=bad", "mode"),
        ("healthy_only=maybe", "healthy_only"),
        ("name=not_a_label", "name"),
        ("node=-x", "node"),
        ("capability=a,%21", "capability[1]"),
        ("min_position=-1", "min_position"),
        ("min_position=1e3", "min_position"),
        ("min_position=99999999999999999999", "min_position"),
        ("min_position=%D9%A1", "min_position"),
    ],
)
async def test_a_bad_parameter_is_a_problem_that_names_it(mesh: Served, query: str, field: str):
    answer = await mesh.get(f"/api/services?{query}")
    assert answer.status == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["field"] == field
    assert answer.body["status"] == 422
    assert answer.body["detail"].startswith(f"{field}: ")


async def test_a_service_is_its_best_instance_with_all_that_can_be_discovered(mesh: Served):
    answer = await mesh.get("/api/services/Whisper")
    assert answer.status == 200
    assert (answer.body["node"], answer.body["id"]) == ("gamma", "1")
    assert keys(answer.body["instances"]) == [
        ("whisper", "gamma", "1"),
        ("whisper", "beta", "1"),
        ("whisper", "beta", "2"),
    ]


async def test_the_own_nodes_instance_is_the_best_of_equals(mesh: Served):
    await mesh.register(name="rag", port=1)
    assert (await mesh.get("/api/services/rag")).body["node"] == NODE


@pytest.mark.parametrize("name", ["absent", "jellyfin", "no_label", "%00", "%FF", "a" * 300])
async def test_a_service_that_cannot_be_discovered_is_not_found(mesh: Served, name: str):
    answer = await mesh.get(f"/api/services/{name}")
    assert answer.status == 404
    assert answer.body["detail"] == "Service not found"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"capabilities": ["stt", "gpu"]}', [("whisper", "beta", "1")]),
        (b'["stt", "gpu"]', [("whisper", "beta", "1")]),
        (b'{"capabilities": "rag"}', [("rag", "gamma", "1")]),
        (b'"rag"', [("rag", "gamma", "1")]),
        (b'["absent"]', []),
        (
            b"[]",
            [
                ("whisper", "gamma", "1"),
                ("rag", "gamma", "1"),
                ("whisper", "beta", "1"),
                ("whisper", "beta", "2"),
            ],
        ),
    ],
)
@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded"])
async def test_discovery_takes_every_shape_of_body_and_any_content_type(
    mesh: Served, body: bytes, expected: list[tuple[str, str, str]], content_type: str
):
    answer = await mesh.ask("POST", "/api/discover", data=body, headers={"Content-Type": content_type})
    assert answer.status == 200
    assert keys(answer.body["services"]) == expected
    assert answer.body["count"] == len(expected)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "body"),
        (b"stt", 400, "body"),
        (b"\xff\xfe", 400, "body"),
        (b"{}", 422, "capabilities"),
        (b"3", 422, "capabilities"),
        (b"[1]", 422, "capabilities"),
        (b'["!"]', 422, "capabilities[0]"),
        (b'{"capabilities": null}', 422, "capabilities"),
        (b'{"prefer": "local"}', 422, "capabilities"),
        (b'{"where": 3}', 422, "where"),
        (b'{"where": {"colour": "red"}}', 422, "where"),
        (b'{"where": {"port": {"gte": null}}}', 422, "where.port.gte"),
        (b'{"where": {}, "prefer": "cheapest"}', 422, "prefer"),
        (b'{"where": {}, "prefer": 1}', 422, "prefer"),
        (b'{"where": {}, "limit": 0}', 422, "limit"),
        (b'{"where": {}, "limit": 1001}', 422, "limit"),
        (b'{"where": {}, "limit": "5"}', 422, "limit"),
        (b'{"where": {}, "limit": true}', 422, "limit"),
        (b'{"where": {}, "limit": null}', 422, "limit"),
    ],
)
async def test_a_bad_discovery_is_a_problem(mesh: Served, body: bytes, status: int, field: str):
    answer = await mesh.ask("POST", "/api/discover", data=body)
    assert (answer.status, answer.body["field"]) == (status, field)
    assert answer.body["detail"].startswith(f"{field}: ")
    assert "\n" not in answer.body["detail"]


async def test_nodes_are_listed_with_their_status(mesh: Served):
    answer = await mesh.get("/api/nodes")
    assert answer.body["count"] == 3
    assert [(one["name"], one["status"]) for one in answer.body["nodes"]] == [
        ("beta", "alive"),
        ("delta", "lost"),
        ("gamma", "alive"),
    ]


async def test_a_node_comes_with_its_instances_in_full(mesh: Served):
    answer = await mesh.get("/api/nodes/BETA")
    assert answer.status == 200
    assert (answer.body["services"], answer.body["instances"]) == (["whisper"], 2)
    assert keys(answer.body["services_detail"]) == [("whisper", "beta", "1"), ("whisper", "beta", "2")]


async def test_an_unknown_node_is_not_found(mesh: Served):
    answer = await mesh.get("/api/nodes/absent")
    assert (answer.status, answer.body["detail"]) == (404, "Node not found")


async def test_the_status_counts_lists_and_describes(mesh: Served):
    body = (await mesh.get("/api/status")).body
    assert body["registry"]["services"] == 5
    assert body["registry"]["hostname"] == NODE
    assert len(body["services"]) == 5
    assert [node["name"] for node in body["nodes"]] == ["beta", "delta", "gamma"]


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/api/services", ServiceList),
        ("/api/services?name=absent", ServiceList),
        ("/api/services/whisper", ServiceAnswer),
        ("/api/nodes", NodeList),
        ("/api/nodes/beta", NodeAnswer),
        ("/api/status", Status),
    ],
)
async def test_every_answer_is_exactly_of_the_type_that_is_published(mesh: Served, path: str, shape: Any):
    body = (await mesh.get(path)).body
    again = msgspec.json.decode(msgspec.json.encode(msgspec.convert(body, shape)))
    assert again == body


async def test_the_health_check_passes_as_it_always_did(mesh: Served):
    answer = await mesh.get("/healthz")
    assert answer.body == {"status": "healthy", "service": "service-registry"}


async def test_a_current_replica_is_ready_and_says_nothing_of_being_stale(mesh: Served):
    answer = await mesh.get("/readyz")
    assert (answer.status, answer.body["status"]) == (200, "ready")
    assert "X-Mesh-Stale" not in answer.headers


async def test_a_replica_that_lost_its_log_answers_but_is_stale_and_not_ready(mesh: Served):
    mesh.client.disconnect()
    await mesh.is_not_current()
    ready = await mesh.get("/readyz")
    assert (ready.status, ready.body["position"]) == (503, mesh.replica.position)
    assert ready.body["stale_s"] >= 0
    assert ready.headers["Content-Type"] == "application/problem+json"
    answer = await mesh.get("/api/services")
    assert (answer.status, answer.body["count"]) == (200, 5)
    assert float(answer.headers["X-Mesh-Stale"]) >= 0
    mesh.client.reconnect()
    await mesh.is_current()
    assert (await mesh.get("/readyz")).status == 200


async def test_a_replica_that_was_never_current_does_not_know_how_stale_it_is(tmp_path: Path):
    async with served(tmp_path, connected=False) as here:
        ready = await here.get("/readyz")
        assert (ready.status, ready.body["stale_s"]) == (503, None)
        assert (await here.get("/healthz")).headers["X-Mesh-Stale"] == "unknown"


async def test_a_replica_that_has_not_seen_the_mesh_never_says_that_there_is_nothing(tmp_path: Path):
    async with served(tmp_path, connected=False) as alone:
        for path in ("/api/services", "/api/services/rag", "/api/services?name=rag", "/api/nodes/beta"):
            answer = await alone.get(path)
            assert (path, answer.status) == (path, 503)
            assert "has not seen the mesh yet" in answer.body["detail"]
        assert (await alone.ask("POST", "/api/discover", data=b'["rag"]')).status == 503
        assert (await alone.register(name="rag", port=8000, capabilities=["rag"])).status == 202
        assert (await alone.get("/api/services/rag")).body["port"] == 8000
        assert (await alone.get("/api/services")).body["count"] == 1
        assert (await alone.ask("POST", "/api/discover", data=b'["rag"]')).body["count"] == 1


async def test_every_answer_carries_the_position_and_a_tag_and_hardening(mesh: Served):
    for path in ("/", "/api/services", "/api/services/rag", "/api/nodes", "/api/status", "/openapi.json"):
        answer = await mesh.get(path)
        assert answer.position == mesh.replica.position
        assert answer.headers["ETag"].startswith('"')
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["Server"] == "pmoves-mesh"
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert (await mesh.get("/absent")).position == mesh.replica.position


async def test_what_the_reader_holds_already_is_not_sent_again_until_it_changes(mesh: Served):
    tag = (await mesh.get("/api/services/rag")).headers["ETag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        again = await mesh.get("/api/services/rag", headers={"If-None-Match": known})
        assert (again.status, again.body, again.headers["ETag"]) == (304, None, tag)
    await mesh.tell(registered(9, instance("rag", "gamma", "1", port=8087)))
    changed = await mesh.get("/api/services/rag", headers={"If-None-Match": tag})
    assert (changed.status, changed.body["port"]) == (200, 8087)


@pytest.mark.parametrize("known", ['"other"', "garbage", '"', ""])
async def test_an_unknown_or_broken_tag_gets_the_whole_answer(mesh: Served, known: str):
    answer = await mesh.get("/api/services/rag", headers={"If-None-Match": known})
    assert answer.status == 200


async def test_head_gives_the_headers_of_the_answer_alone(mesh: Served):
    answer = await mesh.ask("HEAD", "/api/services")
    whole = await mesh.get("/api/services")
    assert (answer.status, answer.body) == (200, None)
    assert answer.headers["ETag"] == whole.headers["ETag"]
    assert answer.headers["Content-Length"] == whole.headers["Content-Length"]


async def test_a_read_waits_until_the_replica_has_the_position_that_was_asked_for(mesh: Served):
    wanted = mesh.replica.position + 1
    for method, path in (("GET", "/api/services/late"), ("POST", "/api/discover")):
        asking = asyncio.create_task(mesh.ask(method, f"{path}?min_position={wanted}", data=b'["late"]'))
        await asyncio.sleep(0.02)
        assert not asking.done()
        late = instance("late", "gamma", str(wanted), port=1, capabilities=("late",))
        await mesh.tell(registered(wanted, late))
        async with asyncio.timeout(DEADLINE_S):
            answer = await asking
        assert answer.status == 200
        assert answer.position >= wanted
        wanted += 1


async def test_a_read_of_a_position_that_does_not_come_is_told_to_try_again(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pmoves_mesh.views.http.app.WAIT_POSITION_S", 0.05)
    answer = await mesh.get("/api/nodes?min_position=1000000")
    assert answer.status == 503
    assert answer.body["position"] == mesh.replica.position
    assert int(answer.headers["Retry-After"]) >= 1


async def test_a_listing_larger_than_a_part_is_whole_and_in_order_however_it_is_gathered(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    several = [
        registered(10 + number, instance(f"svc-{number % 20:02}", "gamma", f"i{number:03}"))
        for number in range(100)
    ]
    await mesh.tell(*several)
    at_once = await mesh.get("/api/services")
    monkeypatch.setattr(listing, "AT_ONCE", 7)
    monkeypatch.setattr(listing, "_NODES_AT_ONCE", 1)
    monkeypatch.setattr(listing, "_ATOMIC_MAX", 10)
    monkeypatch.setattr(answers, "_WHOLE_BYTES_MAX", 100)
    in_parts = await mesh.get("/api/services")
    assert at_once.body["count"] == 105
    assert in_parts.body == at_once.body
    assert in_parts.headers["Content-Length"] == at_once.headers["Content-Length"]
    for query, count in (("mode=standalone", 1), ("mode=docked&capability=stt", 2), ("node=gamma", 102)):
        narrowed = (await mesh.get(f"/api/services?{query}")).body
        assert narrowed["count"] == len(narrowed["services"]) == count
    assert [node["name"] for node in (await mesh.get("/api/nodes")).body["nodes"]] == [
        "beta",
        "delta",
        "gamma",
    ]
    head = await mesh.ask("HEAD", "/api/services")
    assert (head.status, head.body) == (200, None)
    assert (await mesh.get("/healthz")).status == 200


async def test_a_reader_that_does_not_read_is_cut_off(mesh: Served, monkeypatch: pytest.MonkeyPatch):
    stream, cut = answers._stream, asyncio.Event()

    async def watched(*given: Any) -> Any:
        try:
            return await stream(*given)
        finally:
            cut.set()

    monkeypatch.setattr(answers, "_stream", watched)
    monkeypatch.setattr(answers, "_SEND_TIMEOUT_S", 0.1)
    long = {"text": "x" * 16_000}
    await mesh.tell(
        *(
            registered(10 + number, instance("big", "gamma", f"i{number}", metadata=long))
            for number in range(700)
        )
    )
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((HOST, mesh.port))
        slow.sendall(b"GET /api/services HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(DEADLINE_S):
            await cut.wait()
            received = await asyncio.to_thread(read_to_the_end, slow)
    promised = re.search(rb"Content-Length: (\d+)", received)
    assert promised is not None
    assert len(received) < int(promised[1])
    assert (await mesh.get("/healthz")).status == 200


def read_to_the_end(connection: socket.socket) -> bytes:
    received = bytearray()
    while chunk := connection.recv(1 << 16):
        received += chunk
    return bytes(received)


async def test_a_node_that_left_takes_its_services_out_of_discovery_but_not_out_of_the_list(mesh: Served):
    await mesh.tell(left(20, "gamma"))
    assert (await mesh.get("/api/services/rag")).status == 404
    listed = (await mesh.get("/api/services?name=rag")).body["services"]
    assert [one["node_status"] for one in listed] == ["left"]


def test_the_published_types_say_what_the_views_say():
    views = {InstanceView: ServiceAnswer, NodeView: NodeAnswer}
    for view, answer in views.items():
        assert set(view.__struct_fields__) < set(answer.__struct_fields__)
