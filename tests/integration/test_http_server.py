from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
import pytest
from http_support import DEADLINE_S, HOST, NODE, Served, served
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pmoves_mesh.clock import SystemClock
from pmoves_mesh.core.registration import Registration
from pmoves_mesh.errors import StartError
from pmoves_mesh.views.http.app import serving
from pmoves_mesh.views.http.facade import Facade
from pmoves_mesh.views.http.routes import ROUTES


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as here:
        yield here


@pytest.fixture
def facade(mesh: Served) -> Facade:
    return Facade(replica=mesh.replica, registrar=mesh.registrations, node=NODE, describe=mesh.facts)


@pytest.mark.parametrize(
    "path", ["/absent", "/api", "/api/services/a/b", "/api/services/", "/..%2f", "/api//services"]
)
async def test_an_unknown_route_is_a_problem(mesh: Served, path: str):
    answer = await mesh.get(path)
    assert answer.status == 404
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body["title"] == "Not Found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/api/services", {"GET", "HEAD", "POST"}),
        ("POST", "/api/services/rag", {"GET", "HEAD", "DELETE"}),
        ("GET", "/api/discover", {"POST"}),
        ("OPTIONS", "/api/status", {"GET", "HEAD"}),
        ("TRACE", "/", {"GET", "HEAD"}),
    ],
)
async def test_a_wrong_method_is_a_problem_that_lists_the_right_ones(
    mesh: Served, method: str, path: str, allowed: set[str]
):
    answer = await mesh.ask(method, path)
    assert answer.status == 405
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert set(answer.headers["Allow"].split(",")) == allowed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
FIELDS = tuple(Registration.__struct_fields__)
RECORDS = st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=len(FIELDS)).map(
    lambda fields: {"name": "rag", **fields}
)
ENCODED = (JSON | RECORDS | st.fixed_dictionaries({"capabilities": JSON})).map(json.dumps).map(str.encode)
EXTREMES = st.sampled_from(
    [
        b"[" * 500_000,
        b'{"a":' * 200_000,
        b"[" * 900 + b"]" * 900,
        b'{"name":"rag","metadata":' + b'{"a":' * 900 + b"1" + b"}" * 901,
        b'{"name":"rag","port":' + b"9" * 100_000 + b"}",
        b'{"name":"rag","deregister_after":1e400}',
        b'{"name":"rag","deregister_after":' + b"9" * 400 + b"}",
        b'{"name":"rag","port":1e300}',
        b'{"name":"rag","port":NaN}',
        b'{"name":"rag","id":"\\ud800"}',
        b'{"name":"rag\\u0000"}',
        b'{"name":"' + b"a" * 1_000_000 + b'"}',
        b"\xef\xbb\xbf{}",
        b"\x00" * 1000,
    ]
)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    body=st.binary(max_size=200) | ENCODED | EXTREMES,
    path=st.sampled_from(["/api/services", "/api/discover"]),
)
async def test_no_body_whatsoever_makes_the_server_fail(mesh: Served, body: bytes, path: str):
    answer = await mesh.ask("POST", path, data=body)
    assert answer.status in {200, 400, 422}
    assert (answer.status == 200) == (answer.headers["Content-Type"] == "application/json")


@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    name=st.sampled_from(["mode", "capability", "healthy_only", "node", "name", "wait", "id", "unknown"]),
    value=st.text(max_size=50),
    segment=st.text(min_size=1, max_size=80),
)
async def test_no_parameter_or_path_whatsoever_makes_the_server_fail(
    mesh: Served, name: str, value: str, segment: str
):
    for method, path in (
        ("GET", "/api/services"),
        ("GET", f"/api/services/{quote(segment, safe='')}"),
        ("DELETE", f"/api/services/{quote(segment, safe='')}"),
        ("GET", f"/api/nodes/{quote(segment, safe='')}"),
    ):
        answer = await mesh.ask(method, f"{path}?{urlencode({name: value})}")
        assert answer.status in {200, 404, 405, 422}


async def test_the_published_description_has_every_route_parameter_and_status(mesh: Served):
    document = (await mesh.get("/openapi.json")).body
    assert document["openapi"].startswith("3.1.")
    described = {
        (method.upper(), path) for path, operations in document["paths"].items() for method in operations
    }
    assert described == {(route.method, route.path) for route in ROUTES}
    listing = document["paths"]["/api/services"]["get"]
    assert [parameter["name"] for parameter in listing["parameters"]] == [
        "mode",
        "capability",
        "healthy_only",
        "node",
        "name",
        "index",
        "wait",
        "at",
        "min_position",
    ]
    assert set(listing["responses"]) == {"200", "304", "404", "410", "422", "429", "503"}
    registering = document["paths"]["/api/services"]["post"]
    assert {"200", "202", "400", "413", "422", "507"} <= set(registering["responses"])


async def test_the_published_description_holds_together(mesh: Served):
    document = (await mesh.get("/openapi.json")).body
    for path, operations in document["paths"].items():
        for operation in operations.values():
            declared = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            assert all(one["required"] for one in operation["parameters"] if one["in"] == "path")
            assert operation["responses"]
    identifiers = [
        operation["operationId"]
        for operations in document["paths"].values()
        for operation in operations.values()
    ]
    assert len(identifiers) == len(set(identifiers))
    for reference in references(document):
        found: Any = document
        for key in reference.removeprefix("#/").split("/"):
            found = found[key]
        assert isinstance(found, dict)


def references(value: Any) -> list[str]:
    """Returns every `$ref` in a JSON value."""
    if isinstance(value, list):
        return [one for item in value for one in references(item)]
    if not isinstance(value, dict):
        return []
    own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
    return own + [one for item in value.values() for one in references(item)]


async def test_a_taken_port_stops_the_start_with_one_line(mesh: Served, facade: Facade):
    with pytest.raises(StartError) as caught:
        async with serving(facade, HOST, mesh.port):
            pytest.fail("it listens on a port that is taken")
    assert str(caught.value) == f"cannot listen on {HOST} port {mesh.port}: port {mesh.port} is taken"


async def test_an_address_of_another_host_stops_the_start_with_one_line(facade: Facade):
    with pytest.raises(StartError, match=r"^cannot listen on 192\.0\.2\.1 port 0: [^\n]+$"):
        async with serving(facade, "192.0.2.1", 0):
            pytest.fail("it listens on an address that is not this host's")


async def test_the_end_takes_at_most_two_seconds_whatever_is_still_being_asked(facade: Facade):
    clock = SystemClock()
    async with serving(facade, HOST, 0) as port:
        idle = await asyncio.open_connection(HOST, port)
        halfway = await asyncio.open_connection(HOST, port)
        halfway[1].write(b"POST /api/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        waiting = await asyncio.open_connection(HOST, port)
        waiting[1].write(b"GET /api/nodes?min_position=1000000 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{port}/healthz") as answer:
            assert answer.status == 200
        begun_s = clock.monotonic_s()
    assert clock.monotonic_s() - begun_s < 2.0
    for reader, writer in (idle, halfway, waiting):
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        writer.close()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection(HOST, port)


async def test_bad_http_from_clients_leaves_no_trace_in_the_log(
    mesh: Served, caplog: pytest.LogCaptureFixture
):
    reader, writer = await asyncio.open_connection(HOST, mesh.port)
    writer.write(b"GET / HTTP/9\r\n\r\n")
    async with asyncio.timeout(DEADLINE_S):
        assert b" 400 " in await reader.read()
    writer.close()
    assert not caplog.records
