"""Registrations: what a caller asks for, and the instance it becomes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.registration import instance_of, is_same, parse_registration
from pmoves_mesh.errors import InvalidFieldError

FIRST = {
    "name": "Hi-RAG",
    "id": "one",
    "host": "10.0.0.9",
    "port": 8086,
    "ports": {"grpc": 9000},
    "mode": "Standalone",
    "capabilities": ["rag", "search", "rag"],
    "health_url": "http://10.0.0.9:8086/healthz",
    "metadata": {"tier": "api"},
    "deregister_after": 60,
}


def made(body: Any, held: Instance | None = None, now: str = "t1") -> Instance:
    wanted = parse_registration(json.dumps(body).encode())
    return instance_of(
        wanted, node="alpha", node_host="alpha.example", node_mode="docked", held=held, now=now
    )


def test_every_field_given_is_in_the_instance():
    assert made(FIRST) == Instance(
        name="hi-rag",
        id="one",
        node="alpha",
        host="10.0.0.9",
        port=8086,
        ports={"grpc": 9000},
        mode="standalone",
        capabilities=("rag", "search"),
        health_url="http://10.0.0.9:8086/healthz",
        metadata={"tier": "api"},
        deregister_after=60,
        registered_at="t1",
        last_seen="t1",
    )


def test_a_name_is_enough():
    assert made({"name": "rag"}) == Instance(
        name="rag", id="0", node="alpha", host="alpha.example", registered_at="t1", last_seen="t1"
    )


@pytest.mark.parametrize(
    "body",
    [
        {"name": "hi-rag"},
        {"name": "hi-rag", "host": None, "mode": None, "capabilities": None, "metadata": None},
        {"name": "hi-rag", "host": "", "mode": "", "unknown": {"field": 1}},
    ],
)
def test_a_field_left_out_keeps_what_was_said_earlier(body: dict[str, Any]):
    held = made(FIRST)
    again = made(body, held, "t2")
    assert is_same(again, held)
    assert (again.registered_at, again.last_seen) == ("t1", "t2")


@pytest.mark.parametrize(
    ("field", "value", "result"),
    [
        ("port", 0, 0),
        ("port", None, 0),
        ("port", "9090", 9090),
        ("ports", {}, {}),
        ("ports", None, {}),
        ("capabilities", [], ()),
        ("health_url", None, None),
        ("health_url", "", None),
        ("metadata", {}, {}),
        ("deregister_after", None, 300.0),
        ("deregister_after", "12.5", 12.5),
        ("mode", " DOCKED ", "docked"),
        ("host", "::1", "::1"),
    ],
)
def test_a_field_given_replaces_it_even_when_empty(field: str, value: object, result: object):
    held = made(FIRST)
    again = made({"name": "hi-rag", field: value}, held)
    assert getattr(again, field) == result
    assert not is_same(again, held)


@pytest.mark.parametrize(
    ("body", "instance_id"),
    [
        ({}, "0"),
        ({"port": 8080}, "8080"),
        ({"port": 8080, "host": "alpha.example"}, "8080"),
        ({"port": 8080, "host": "10.0.0.9"}, "10-0-0-9-8080"),
        ({"port": 8080, "host": "[::1]"}, "1-8080"),
        ({"port": 8080, "host": "::"}, "8080"),
        ({"port": 65535, "host": "h" * 100}, "h" * 57 + "-65535"),
        ({"port": 1, "host": ".".join(["abcdefghi"] * 10)}, "-".join(["abcdefghi"] * 6) + "-1"),
        ({"id": 7, "port": 8080}, "7"),
        ({"id": "A_b", "port": 8080}, "A_b"),
        ({"id": "", "port": 8080}, "8080"),
        ({"id": None, "port": None}, "0"),
    ],
)
def test_an_id_is_given_or_made_of_host_and_port(body: dict[str, Any], instance_id: str):
    found = made({"name": "rag", **body}).id
    assert len(found) <= 63
    assert found.endswith(instance_id)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ([], "body"),
        (None, "body"),
        ({}, "body"),
        ({"name": 7}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"name": "a", "id": "_"}, "id"),
        ({"name": "a", "id": 10**70}, "id"),
        ({"name": "a", "id": []}, "id"),
        ({"name": "a", "host": "http://x"}, "host"),
        ({"name": "a", "host": " "}, "host"),
        ({"name": "a", "port": 65536}, "port"),
        ({"name": "a", "port": -1}, "port"),
        ({"name": "a", "id": "1", "port": 65536}, "port"),
        ({"name": "a", "port": "x"}, "port"),
        ({"name": "a", "ports": {"grpc": 65536}}, "ports.grpc"),
        ({"name": "a", "ports": {"no port": 1}}, "ports"),
        ({"name": "a", "ports": {f"p{number}": 1 for number in range(33)}}, "ports"),
        ({"name": "a", "mode": "other"}, "mode"),
        ({"name": "a", "capabilities": "rag"}, "capabilities"),
        ({"name": "a", "capabilities": ["ok", "?"]}, "capabilities[1]"),
        ({"name": "a", "capabilities": ["c"] * 65}, "capabilities"),
        ({"name": "a", "health_url": "ftp://x"}, "health_url"),
        ({"name": "a", "health_url": "http://"}, "health_url"),
        ({"name": "a", "health_url": "http://x:99999"}, "health_url"),
        ({"name": "a", "health_url": "http://x:0"}, "health_url"),
        ({"name": "a", "health_url": "http://[x"}, "health_url"),
        ({"name": "a", "health_url": "http://x/\u0007"}, "health_url"),
        ({"name": "a", "health_url": "http://x/" + "y" * 2048}, "health_url"),
        ({"name": "a", "metadata": []}, "metadata"),
        ({"name": "a", "metadata": {"k": "x" * 16384}}, "metadata"),
        ({"name": "a", "metadata": {"k": 2**64}}, "metadata"),
        ({"name": "a", "deregister_after": 0}, "deregister_after"),
        ({"name": "a", "deregister_after": -1}, "deregister_after"),
        ({"name": "a", "deregister_after": "inf"}, "deregister_after"),
        ({"name": "a", "deregister_after": "nan"}, "deregister_after"),
    ],
    ids=str,
)
def test_a_field_out_of_bounds_is_refused_and_named(body: Any, field: str):
    with pytest.raises(InvalidFieldError) as refused:
        made(body)
    assert refused.value.field == field
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b'{"name":"\xff"}', b"NaN", b"1" * 9999]
)
def test_a_body_that_is_not_json_is_refused(body: bytes):
    with pytest.raises(InvalidFieldError, match="body"):
        parse_registration(body)


@pytest.mark.parametrize("depth", [40, 900])
def test_metadata_nested_too_deep_is_refused(depth: int):
    deep = "[" * depth + "]" * depth
    body = f'{{"name":"a","metadata":{{"k":{deep}}}}}'.encode()
    with pytest.raises(InvalidFieldError):
        made(json.loads(body))


def test_two_records_are_the_same_whenever_they_were_stated():
    assert is_same(made(FIRST, now="t1"), made(FIRST, made(FIRST, now="t1"), "t9"))
    assert not is_same(made(FIRST), made({**FIRST, "port": 1}))


def test_an_update_keeps_the_health_that_was_found_unless_it_is_probed_elsewhere():
    found = msgspec.structs.replace(made(FIRST), health_status="healthy", health_output="HTTP 200")
    kept = made({**FIRST, "port": 8087}, found)
    assert (kept.health_status, kept.health_output) == ("healthy", "HTTP 200")
    for elsewhere in ("http://10.0.0.9:8087/healthz", None):
        moved = made({"name": "hi-rag", "health_url": elsewhere}, found)
        assert (moved.health_status, moved.health_output) == ("unknown", "")
