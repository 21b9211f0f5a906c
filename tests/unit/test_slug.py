from __future__ import annotations

import json

import pytest
from builders import instance
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core import foreign, slug
from pmoves_mesh.core.event import InstanceRegistered
from pmoves_mesh.core.names import EVENT_BYTES_MAX
from pmoves_mesh.errors import EventTooLarge, MalformedEvent, RemoteProtocolError

ANNOUNCEMENT = {
    "slug": "hi-rag-gateway",
    "name": "Hi-RAG Gateway",
    "url": "http://10.0.0.7:8086",
    "health_check": "http://10.0.0.7:8086/healthz",
    "tier": "api",
    "port": 8086,
    "timestamp": "2026-11-23T06:00:00+00:00Z",
    "metadata": {"version": "2"},
}


def read(**changed: object) -> InstanceRegistered:
    body = {name: value for name, value in {**ANNOUNCEMENT, **changed}.items() if value is not None}
    _, payload = slug.read(json.dumps(body).encode())
    (event,) = foreign.read(InstanceRegistered.subject, payload, mesh="pmoves-mesh", position=7)
    assert isinstance(event, InstanceRegistered)
    return event


def test_an_announcement_by_slug_becomes_an_instance_on_the_host_of_its_url():
    record = read().data
    assert (record.name, record.host, record.port) == ("hi-rag-gateway", "10.0.0.7", 8086)
    assert record.capabilities == ("tier:api",)
    assert record.health_url == ANNOUNCEMENT["health_check"]
    assert record.metadata == {"version": "2"}


@pytest.mark.parametrize(
    ("changed", "host", "port"),
    [
        ({"port": None}, "10.0.0.7", 8086),
        ({"port": "9000"}, "10.0.0.7", 9000),
        ({"port": None, "url": "https://rag.example"}, "rag.example", 443),
        ({"port": None, "url": None}, "hi-rag-gateway", 0),
        ({"url": "http://[fd00::1]:8086", "port": None}, "fd00::1", 8086),
    ],
)
def test_host_and_port_are_taken_from_where_they_are(changed: dict[str, object], host: str, port: int):
    record = read(**changed).data
    assert (record.host, record.port) == (host, port)


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"slug": "///"}, "slug"), ({"slug": None}, "payload"), ({"url": "http://x:99999"}, "url")],
)
def test_a_bad_announcement_names_its_field(changed: dict[str, object], field: str):
    with pytest.raises(MalformedEvent) as caught:
        read(**changed)
    assert caught.value.field == field


def test_an_announcement_larger_than_an_event_is_refused():
    with pytest.raises(EventTooLarge):
        slug.read(b" " * (EVENT_BYTES_MAX + 1))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_announcement_are_refused_and_never_more(payload: bytes):
    with pytest.raises(RemoteProtocolError):
        slug.read(payload)


def test_an_instance_is_announced_in_the_words_of_todays_listeners():
    record = instance(
        name="whisper",
        host="fd00::2",
        port=9000,
        capabilities=("stt", "tier:worker"),
        health_url="http://x/h",
    )
    said = json.loads(slug.write(record, "2026-11-23T06:00:00Z"))
    assert said == {
        "slug": "whisper",
        "name": "whisper",
        "url": "http://[fd00::2]:9000",
        "health_check": "http://x/h",
        "tier": "worker",
        "port": 9000,
        "timestamp": "2026-11-23T06:00:00Z",
        "metadata": {},
    }


def test_what_is_announced_is_read_back_as_the_same_place():
    record = instance(name="whisper", host="10.0.0.9", port=9000)
    name, payload = slug.read(slug.write(record, ""))
    (event,) = foreign.read(InstanceRegistered.subject, payload, mesh="pmoves-mesh", position=1)
    assert isinstance(event, InstanceRegistered)
    assert (name, event.data.host, event.data.port) == ("whisper", "10.0.0.9", 9000)
