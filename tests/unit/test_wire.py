"""The wire: bounds while decoding, and one family of errors whatever the bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from builders import announced, evicted, instance, left, line, lost, registered, revoked, rotated

from pmoves_mesh.core import wire
from pmoves_mesh.core.event import Event
from pmoves_mesh.errors import (
    EventTooLarge,
    LocalProtocolError,
    MalformedEvent,
    RemoteProtocolError,
    UnknownKind,
    UnsupportedVersion,
)

REGISTERED = "service.registry.registered"
ANNOUNCED = "mesh.node.announce.v1"


def body(event: Event, **changes: Any) -> bytes:
    """Returns an event's payload with some of its fields changed; those of `data` too."""
    value = msgspec.to_builtins(event)
    data = {name.removeprefix("data__"): changes.pop(name) for name in list(changes) if "data__" in name}
    value.update(changes)
    if data:
        value["data"].update(data)
    return msgspec.json.encode(value)


BOUNDS: list[tuple[str, Callable[[], Event], dict[str, Any]]] = [
    ("mesh", registered_ := lambda: registered(1), {"mesh": "No"}),
    ("node", registered_, {"node": "a" * 64}),
    ("incarnation", registered_, {"incarnation": -1}),
    ("incarnation", registered_, {"incarnation": 2**62 + 1}),
    ("revision", registered_, {"revision": 2**70}),
    ("revision", registered_, {"revision": 1.5}),
    ("prev", registered_, {"prev": "a" * 63}),
    ("timestamp", registered_, {"timestamp": "x" * 1025}),
    ("type", registered_, {"type": "updated"}),
    ("service", registered_, {"service": "a" * 64}),
    ("data.name", registered_, {"service": "tts"}),
    ("data.node", registered_, {"data__node": "beta"}),
    ("data.name", registered_, {"data__name": "A"}),
    ("data.id", registered_, {"data__id": "x" * 64}),
    ("data.host", registered_, {"data__host": "http://x"}),
    ("data.port", registered_, {"data__port": 65536}),
    ("data.port", registered_, {"data__port": -1}),
    ("data.port", registered_, {"data__port": "80"}),
    ("data.ports[...]", registered_, {"data__ports": {"grpc": 65536}}),
    ("data.ports", registered_, {"data__ports": {f"p{number}": 1 for number in range(33)}}),
    ("data.mode", registered_, {"data__mode": "other"}),
    ("data.capabilities", registered_, {"data__capabilities": ["x"] * 65}),
    ("data.capabilities[1]", registered_, {"data__capabilities": ["x", "x" * 65]}),
    ("data.health_url", registered_, {"data__health_url": "x" * 2049}),
    ("data.health_status", registered_, {"data__health_status": "fine"}),
    ("data.health_output", registered_, {"data__health_output": "x" * 4097}),
    ("data.metadata", registered_, {"data__metadata": {"k": "x" * 16384}}),
    ("data.metadata", registered_, {"data__metadata": {"k": 2**64}}),
    ("data.metadata", registered_, {"data__metadata": []}),
    ("data.deregister_after", registered_, {"data__deregister_after": 0}),
    ("host", lambda: announced(1), {"host": ""}),
    ("port", lambda: announced(1), {"port": 65536}),
    ("resources", lambda: announced(1), {"resources": {"k": -(2**64)}}),
    ("capabilities", lambda: announced(1), {"capabilities": ["x"] * 65}),
    ("instances", lambda: announced(1), {"instances": [{"name": "a", "id": "1", "revision": 1}] * 2001}),
    ("instances[0]", lambda: announced(1), {"instances": [line_ := {"name": "a", "id": "1"}]}),
    ("instances[0].revision", lambda: announced(1), {"instances": [line_ | {"revision": 2**70}]}),
    ("witness", lambda: lost(1), {"witness": None}),
    ("operator", evicted, {"operator": ""}),
    ("id", evicted, {"id": ""}),
    ("fingerprints[0]", lambda: revoked("a" * 64), {"fingerprints": [""]}),
    ("fingerprints", lambda: revoked("a" * 64), {"fingerprints": ["a" * 64] * 1001}),
    ("roots", lambda: rotated("pem"), {"roots": []}),
    ("roots", lambda: rotated("pem"), {"roots": ["pem"] * 9}),
]


@pytest.mark.parametrize(
    ("field", "make", "changes"), BOUNDS, ids=lambda value: getattr(value, "__name__", str(value))[:40]
)
def test_a_field_out_of_bounds_is_refused_and_named(
    field: str, make: Callable[[], Event], changes: dict[str, Any]
):
    event = make()
    with pytest.raises(MalformedEvent) as refused:
        wire.decode(event.subject, body(event, **changes))
    assert refused.value.field == field
    assert refused.value.reason == "malformed"
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("field", ["mesh", "node", "incarnation", "revision", "service", "data"])
def test_a_missing_field_is_named(field: str):
    value = msgspec.to_builtins(registered(1))
    del value[field]
    with pytest.raises(MalformedEvent, match=field):
        wire.decode(REGISTERED, msgspec.json.encode(value))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"NaN",
        b'{"mesh": NaN}',
        b'{"ts": 1e999}',
        b"\xff",
        b'{"\xff": 1}',
        b'"\\ud800"',
        b"1" * 10_000,
        b"[" * 100_000,
        b'{"metadata":' * 20_000,
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    ],
    ids=lambda payload: repr(payload[:12]),
)
@pytest.mark.parametrize("subject", [REGISTERED, ANNOUNCED, "mesh.trust.revoked.v1"])
def test_what_is_no_json_object_is_malformed(subject: str, payload: bytes):
    with pytest.raises(MalformedEvent):
        wire.decode(subject, payload)


def test_invalid_utf_8_in_a_field_that_nobody_reads_is_malformed():
    payload = b'{"later":"\xff",' + wire.encode(left(1))[1:]
    with pytest.raises(MalformedEvent, match="payload"):
        wire.decode(left(1).subject, payload)


@pytest.mark.parametrize(("before", "after"), [(b" ", b""), (b"", b"\n"), (b"\r\n", b"\t")])
def test_white_space_around_the_object_is_malformed(before: bytes, after: bytes):
    with pytest.raises(MalformedEvent, match="payload: has white space around it"):
        wire.decode(left(1).subject, before + wire.encode(left(1)) + after)


@pytest.mark.parametrize("depth", [40, 900])
@pytest.mark.parametrize("make", [lambda: registered(1), lambda: announced(1)])
def test_a_value_that_could_not_be_written_again_is_malformed(make: Callable[[], Event], depth: int):
    deep: Any = 0
    for _ in range(depth):
        deep = [deep]
    event = make()
    field = "data__metadata" if event.subject == REGISTERED else "resources"
    with pytest.raises(MalformedEvent):
        wire.decode(event.subject, body(event, **{field: {"k": deep}}))


def test_an_unknown_subject_is_an_unknown_kind():
    with pytest.raises(UnknownKind, match=r"mesh\.gpu\.status\.v1") as refused:
        wire.decode("mesh.gpu.status.v1", b"{}")
    assert isinstance(refused.value, RemoteProtocolError)


def test_a_payload_may_have_256_kib():
    payload = wire.encode(left(1))
    padded = payload[:-1] + b',"x":"' + b"y" * (256 * 1024 - len(payload) - len(b',"x":""')) + b'"}'
    assert len(padded) == 256 * 1024
    assert wire.decode(left(1).subject, padded) == left(1)
    with pytest.raises(EventTooLarge) as refused:
        wire.decode(left(1).subject, padded + b" ")
    assert (refused.value.size, refused.value.limit) == (256 * 1024 + 1, 256 * 1024)


def test_an_own_event_that_is_too_large_is_a_bug_here():
    with pytest.raises(LocalProtocolError, match="bytes, at most 262144"):
        wire.encode(announced(1, resources={"k": "x" * 256 * 1024}))


def test_unknown_fields_are_ignored_at_every_level():
    event = announced(2, [line(1)])
    value = msgspec.to_builtins(event) | {"later": {"x": [1]}}
    value["instances"][0]["later"] = True
    assert wire.decode(ANNOUNCED, msgspec.json.encode(value)) == event


def test_a_manifest_line_leaves_out_the_announcements_own_incarnation():
    payload = wire.encode(announced(2, [line(1), line(4, "tts", incarnation=7)]))
    assert msgspec.json.decode(payload)["instances"] == [
        {"name": "rag", "id": "1", "revision": 1},
        {"name": "tts", "id": "1", "revision": 4, "incarnation": 7},
    ]


def test_metadata_is_kept_as_it_is():
    record = instance(metadata={"a": [1, 2.5, None, True, {"ü": "x"}], "big": 2**63 - 1})
    event = registered(1, record)
    assert wire.decode(REGISTERED, wire.encode(event)) == event


@pytest.mark.parametrize("version", ["1.0", "1.7", "1", "1.", "0.9", "1.999999"])
def test_this_major_version_and_any_minor_can_be_read(version: str):
    wire.check_format(version)


@pytest.mark.parametrize("version", ["2.0", "2", "10.0", "99999999999999"])
def test_a_newer_major_version_is_unsupported(version: str):
    with pytest.raises(UnsupportedVersion) as refused:
        wire.check_format(version)
    assert (refused.value.version, refused.value.supported) == (version, wire.FORMAT)


@pytest.mark.parametrize("version", ["", "x", "1.x", "-1", "1.0.0", "²", "1" * 17, " 1.0", "1.-"])
def test_what_is_no_version_is_malformed(version: str):
    with pytest.raises(MalformedEvent, match="Mesh-Format"):
        wire.check_format(version)
