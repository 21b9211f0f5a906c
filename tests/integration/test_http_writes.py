from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from builders import evicted, instance, registered
from http_support import DEADLINE_S, HOST, NODE, Served, served
from structlog.testing import capture_logs

from pmoves_mesh.core.names import BODY_BYTES_MAX
from pmoves_mesh.errors import CapacityError, LogUnavailable, RightMissing, StoreError
from pmoves_mesh.views.http.shapes import Registered, Unregistered


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as here:
        yield here


async def test_a_registration_is_answered_when_it_is_in_the_stream_and_found_here(mesh: Served):
    answer = await mesh.register(name="Whisper", port=9000, capabilities=["stt"], metadata={"a": [1]})
    assert answer.status == 200
    assert answer.body["status"] == "registered"
    service = answer.body["service"]
    assert (service["name"], service["node"], service["host"]) == ("whisper", NODE, "10.0.0.1")
    assert (service["capabilities"], service["metadata"], service["verified"]) == (["stt"], {"a": [1]}, True)
    assert service["position"] == answer.position == mesh.broker.bounds().last
    assert msgspec.convert(answer.body, Registered).service.port == 9000
    listed = await mesh.get(f"/api/services?min_position={answer.position}")
    assert listed.body["services"] == [service]


async def test_curl_needs_to_name_no_content_type(mesh: Served):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    body = b'{"name": "rag", "port": "8086"}'
    answer = await mesh.ask("POST", "/api/services", data=body, headers=headers)
    assert (answer.status, answer.body["service"]["port"]) == (200, 8086)


async def test_a_node_that_serves_nothing_may_register_itself_with_port_0(mesh: Served):
    answer = await mesh.register(name="agent", port=0)
    assert (answer.status, answer.body["service"]["port"]) == (200, 0)


async def test_registering_again_updates_what_is_said_and_keeps_what_is_not(mesh: Served):
    first = await mesh.register(name="rag", port=8086, capabilities=["rag"], metadata={"a": 1})
    same = await mesh.register(name="rag", port=8086)
    assert same.position == first.position
    changed = await mesh.register(name="rag", port=8086, capabilities=[])
    assert changed.position > first.position
    assert changed.body["service"]["capabilities"] == []
    assert changed.body["service"]["metadata"] == {"a": 1}


async def test_without_the_log_a_registration_is_accepted_found_here_and_published_later(mesh: Served):
    mesh.client.disconnect()
    answer = await mesh.register(name="rag", port=8086)
    assert answer.status == 202
    assert answer.body["service"]["position"] == 0
    assert answer.position == mesh.replica.position
    assert (await mesh.get("/api/services/rag")).status == 200
    mesh.client.reconnect()
    async with asyncio.timeout(DEADLINE_S):
        while (await mesh.get("/api/services/rag")).body["position"] == 0:
            await asyncio.sleep(0.01)


async def test_who_does_not_want_to_wait_is_answered_from_the_outbox(mesh: Served):
    answer = await mesh.register("/api/services?wait=none", name="rag", port=8086)
    assert answer.status == 202
    assert answer.body["service"]["name"] == "rag"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        (b"", 400, "body"),
        (b"name=rag&port=1", 400, "body"),
        (b'{"name": "rag"', 400, "body"),
        (b"\xff", 400, "body"),
        (b"[" * 100_000, 400, "body"),
        (b"[]", 422, "body"),
        (b"null", 422, "body"),
        (b"{}", 422, "body"),
        (b'{"name": 3}', 422, "name"),
        (b'{"name": "not_a_label"}', 422, "name"),
        (b'{"name": "rag", "mode": "bad"}', 422, "mode"),
        (b'{"name": "rag", "port": 65536}', 422, "port"),
        (b'{"name": "rag", "port": ' + b"9" * 5000 + b"}", 422, None),
        (b'{"name": "rag", "ports": {"GRPC!": 1}}', 422, "ports"),
        (b'{"name": "rag", "host": "a b"}', 422, "host"),
        (b'{"name": "rag", "capabilities": ["ok", "!"]}', 422, "capabilities[1]"),
        (b'{"name": "rag", "health_url": "ftp://a"}', 422, "health_url"),
        (b'{"name": "rag", "deregister_after": -1}', 422, "deregister_after"),
        (b'{"name": "rag", "metadata": {"a": "' + b"x" * 20_000 + b'"}}', 422, "metadata"),
        (b'{"name": "rag", "metadata": ' + b'{"a":' * 100 + b"1" + b"}" * 101, 422, "metadata"),
        (b'{"name": "rag", "metadata": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}", 422, "metadata"),
    ],
)
async def test_a_bad_registration_is_a_problem_that_names_the_field_and_changes_nothing(
    mesh: Served, body: bytes, status: int, field: str | None
):
    answer = await mesh.ask("POST", "/api/services", data=body)
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert field is None or answer.body["field"] == field
    assert len(answer.body["detail"]) < 300
    assert (await mesh.get("/api/services")).body["count"] == 0


@pytest.mark.parametrize("path", ["/api/services?wait=all", "/api/services/rag?wait=1"])
async def test_a_wait_for_anything_else_is_refused(mesh: Served, path: str):
    method = "DELETE" if path.startswith("/api/services/") else "POST"
    answer = await mesh.ask(method, path, data=b'{"name": "rag"}')
    assert (answer.status, answer.body["field"]) == (422, "wait")


async def test_an_own_service_is_unregistered_with_all_its_instances(mesh: Served):
    await mesh.register(name="rag", port=1)
    await mesh.register(name="rag", port=2)
    answer = await mesh.ask("DELETE", "/api/services/RAG")
    assert (answer.status, answer.body) == (200, {"status": "unregistered", "name": "rag"})
    assert msgspec.convert(answer.body, Unregistered).name == "rag"
    assert 0 < answer.position <= mesh.broker.bounds().last
    assert (await mesh.get("/api/services/rag")).status == 404
    again = await mesh.ask("DELETE", "/api/services/rag")
    assert (again.status, again.body["detail"]) == (404, "Service not found")


async def test_one_instance_is_unregistered_by_its_id(mesh: Served):
    await mesh.register(name="rag", port=1)
    await mesh.register(name="rag", port=2)
    answer = await mesh.ask("DELETE", f"/api/services/rag?node={NODE}&id=1")
    assert answer.status == 200
    assert [one["id"] for one in (await mesh.get("/api/services/rag")).body["instances"]] == ["2"]


async def test_without_the_log_a_removal_is_accepted_too(mesh: Served):
    await mesh.register(name="rag", port=1)
    mesh.client.disconnect()
    answer = await mesh.ask("DELETE", "/api/services/rag")
    assert (answer.status, answer.body["status"]) == (202, "unregistered")
    assert (await mesh.get("/api/services/rag")).status == 404


async def test_another_nodes_service_is_refused_with_its_owners(mesh: Served):
    await mesh.tell(registered(1, instance("rag", "beta")), registered(1, instance("rag", "gamma")))
    answer = await mesh.ask("DELETE", "/api/services/rag")
    assert (answer.status, answer.body["nodes"]) == (409, ["beta", "gamma"])
    assert (await mesh.get("/api/services/rag")).status == 200


@pytest.mark.parametrize(("query", "field"), [("node=a_b", "node"), ("id=!", "id")])
async def test_a_removal_with_a_bad_parameter_names_it(mesh: Served, query: str, field: str):
    answer = await mesh.ask("DELETE", f"/api/services/rag?{query}")
    assert (answer.status, answer.body["field"]) == (422, field)


async def test_an_evicted_instance_may_register_but_is_not_found(mesh: Served):
    position = mesh.publish(evicted("rag", NODE), kind="operator", by="root")
    await mesh.replica.wait_position(position, DEADLINE_S)
    assert (await mesh.register(name="rag", port=1)).status == 200
    assert (await mesh.get("/api/services/rag")).status == 404


async def test_an_instance_that_is_removed_before_its_registration_is_answered_is_not_found(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    register = mesh.registrations.register

    async def overtaken(*given: Any, **options: Any) -> Any:
        receipt = await register(*given, **options)
        await mesh.registrations.deregister("rag")
        return receipt

    monkeypatch.setattr(mesh.registrations, "register", overtaken)
    assert (await mesh.register(name="rag", port=1)).status == 404


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CapacityError("instances on one node", 1), 507),
        (LogUnavailable("no answer within 2 s"), 503),
        (StoreError("mesh.db", "disk full"), 503),
        (RightMissing("JetStream", "secret"), 500),
        (ZeroDivisionError("secret"), 500),
    ],
)
async def test_a_fault_of_this_agent_is_a_problem_without_its_internals(
    mesh: Served, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
):
    async def fail(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(mesh.registrations, "register", fail)
    with capture_logs() as logged:
        answer = await mesh.register(name="rag", port=1)
    assert (answer.status, answer.body["status"]) == (status, status)
    assert len(logged) == (status == 500 or isinstance(error, StoreError))
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert ("Retry-After" in answer.headers) == (status == 503)
    for internal in ("Traceback", "secret", "mesh.db"):
        assert internal not in str(answer.body)


@pytest.mark.parametrize("path", ["/api/services", "/api/discover"])
async def test_a_body_above_1_mib_is_refused_whether_or_not_its_length_is_told(mesh: Served, path: str):
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(1024):
            yield b" " * 4096

    known = await mesh.ask("POST", path, data=io.BytesIO(b" " * (BODY_BYTES_MAX + 1)))
    streamed = await mesh.ask("POST", path, data=endless())
    assert (known.status, streamed.status) == (413, 413)
    assert known.headers["Content-Type"] == "application/problem+json"
    largest = await mesh.ask("POST", path, data=io.BytesIO(b'"a"'.ljust(BODY_BYTES_MAX)))
    assert largest.status in {200, 422}


async def test_a_body_that_does_not_arrive_is_given_up(mesh: Served, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pmoves_mesh.views.http.inputs.BODY_TIMEOUT_S", 0.05)
    answer = await raw(mesh, b"POST /api/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"application/problem+json" in answer


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /api/services HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /api/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n",
    ],
)
async def test_what_is_not_http_is_refused_and_harms_nobody(mesh: Served, request_bytes: bytes):
    answer = await raw(mesh, request_bytes)
    assert answer.split(b" ")[1] == b"400"
    assert b"Traceback" not in answer
    assert (await mesh.get("/healthz")).status == 200


async def test_a_body_whose_framing_breaks_halfway_is_a_problem(
    mesh: Served, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pmoves_mesh.views.http.inputs.BODY_TIMEOUT_S", 0.05)
    head = (
        b"POST /api/services HTTP/1.1\r\nHost: localhost\r\n"
        b"Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n"
    )
    reader, writer = await asyncio.open_connection(HOST, mesh.port)
    try:
        writer.write(head + b"\r\n")
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"1\r\n{\r\nzz\r\n")
            answer = await reader.read()
    finally:
        writer.close()
    assert answer.split(b" ")[1] in {b"400", b"408"}
    assert b"application/problem+json" in answer


async def test_a_client_that_goes_away_with_half_its_body_harms_nobody(mesh: Served):
    _, writer = await asyncio.open_connection(HOST, mesh.port)
    writer.write(b"POST /api/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n{")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await mesh.register(name="rag", port=1)).status == 200
    assert (await mesh.get("/api/services")).body["count"] == 1


async def test_one_connection_serves_many_requests(mesh: Served):
    request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await raw(mesh, request * 5 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 6


async def raw(mesh: Served, request: bytes) -> bytes:
    """Sends bytes as they are, and returns all that comes back until the server closes."""
    reader, writer = await asyncio.open_connection(HOST, mesh.port)
    try:
        writer.write(request)
        async with asyncio.timeout(DEADLINE_S):
            return await reader.read()
    finally:
        writer.close()
