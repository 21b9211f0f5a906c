"""Bytes: what is written is read back, and whatever else arrives is refused in one way only."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from builders import MESH, NOW_MS, Authority
from events import JSON, OBJECTS, TEXT, events, events_of
from hypothesis import given, settings
from hypothesis import strategies as st

from pmoves_mesh.core import envelope, foreign, records, snapshot, wire
from pmoves_mesh.core.envelope import FORMAT, MESSAGE_ID, SIGNATURE, SIGNER, SealedEvent
from pmoves_mesh.core.event import EVENT_TYPES, Event, InstanceRegistered, NodeLost
from pmoves_mesh.core.model import Instance
from pmoves_mesh.core.projection import apply
from pmoves_mesh.core.registration import instance_of, parse_registration
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.errors import (
    InvalidFieldError,
    MalformedEvent,
    RemoteProtocolError,
    UntrustedIssuer,
)

AUTHORITY = Authority()
WITNESS = AUTHORITY.identity("omega")
SUBJECTS = st.sampled_from([kind.subject for kind in EVENT_TYPES])


@pytest.mark.parametrize("kind", EVENT_TYPES, ids=lambda kind: kind.__name__)
@settings(max_examples=30)
@given(st.data())
def test_an_event_decodes_to_what_was_encoded(kind: type[Event], data: st.DataObject):
    event = data.draw(events_of(kind))
    assert wire.decode(event.subject, wire.encode(event)) == event


@given(events(), st.dictionaries(st.from_regex(r"x-[a-z]{1,8}", fullmatch=True), JSON, max_size=3))
def test_fields_that_a_newer_release_adds_are_ignored(event: Any, extra: dict[str, Any]):
    newer = json.dumps({**extra, **msgspec.to_builtins(event)}).encode()
    assert wire.decode(event.subject, newer) == event


@given(events(), st.data())
def test_any_field_of_another_type_is_refused_and_named(event: Any, data: st.DataObject):
    body = msgspec.to_builtins(event)
    field = data.draw(st.sampled_from(["mesh", "node", "incarnation", "revision", "prev", "timestamp"]))
    body[field] = {"not": "what it was"}
    with pytest.raises(MalformedEvent) as refused:
        wire.decode(event.subject, json.dumps(body).encode())
    assert refused.value.field == field


@given(SUBJECTS | TEXT, st.binary(max_size=200))
def test_decoding_any_bytes_raises_nothing_but_a_protocol_error(subject: str, payload: bytes):
    with suppress(RemoteProtocolError):
        wire.decode(subject, payload)


@given(events(), st.data())
def test_decoding_a_damaged_event_raises_nothing_but_a_protocol_error(event: Any, data: st.DataObject):
    payload = bytearray(wire.encode(event))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    with suppress(RemoteProtocolError):
        wire.decode(event.subject, bytes(payload))


_HEADERS = st.dictionaries(
    st.sampled_from([MESSAGE_ID, FORMAT, SIGNER, SIGNATURE, "Other"]),
    st.sampled_from(["1.0", "2.0", WITNESS.fingerprint, "AAAA", ""]) | st.text(max_size=20),
)


@given(subject=SUBJECTS | TEXT, payload=st.binary(max_size=50), headers=_HEADERS, accept=st.booleans())
def test_unsealing_anything_raises_nothing_but_a_protocol_error(
    subject: str, payload: bytes, headers: dict[str, str], *, accept: bool
):
    sealed = SealedEvent(subject=subject, payload=payload, headers=headers)
    with suppress(RemoteProtocolError):
        AUTHORITY.unseal(sealed, accept_unsigned=accept)


_FOREIGN_SUBJECTS = st.sampled_from(
    [
        "mesh.node.announce.v1",
        "mesh.node.leave.v1",
        foreign.OFFLINE_SUBJECT,
        "service.registry.registered",
        "service.registry.unregistered",
    ]
)
_FOREIGN_FIELDS = st.sampled_from(
    [
        *("node", "node_id", "hostname", "name", "host", "port", "mode", "caps", "capabilities", "services"),
        *("services_running", "load", "tailscale_ip", "health_url", "health_status", "metadata"),
        *("registered_at", "service", "data"),
    ]
)
_FOREIGN_BODIES = st.dictionaries(_FOREIGN_FIELDS, JSON | st.integers() | OBJECTS | st.just("alpha"))


@given(_FOREIGN_SUBJECTS, _FOREIGN_BODIES, st.just({"name": "alpha"}) | _FOREIGN_BODIES)
def test_whatever_is_read_of_a_foreign_message_can_be_folded_saved_and_restored(
    subject: str, body: dict[str, Any], data: dict[str, Any]
):
    payload = json.dumps({"node": "alpha", **body, "data": data}).encode()
    sealed = SealedEvent(subject=subject, payload=payload)
    registry = Registry()
    with suppress(RemoteProtocolError):
        for one in AUTHORITY.unseal(sealed, position=7, accept_unsigned=True):
            apply(registry, one, position=7, time_ms=NOW_MS)
    assert snapshot.load(snapshot.dump(registry, MESH), MESH).state() == registry.state()


@given(events_of(NodeLost), st.data())
def test_no_flipped_bit_of_payload_headers_or_subject_verifies(event: NodeLost, data: st.DataObject):
    event = msgspec.structs.replace(event, mesh=MESH, witness="omega", incarnation=event.incarnation % NOW_MS)
    sealed = envelope.seal(event, WITNESS)
    (one,) = AUTHORITY.unseal(sealed)
    assert one.event == event
    parts = ["subject", "payload", *sealed.headers]
    part = data.draw(st.sampled_from(parts))
    headers = dict(sealed.headers)
    if part == "payload":
        changed = msgspec.structs.replace(sealed, payload=_flipped(sealed.payload, data))
    elif part == "subject":
        changed = msgspec.structs.replace(sealed, subject=_flipped_text(sealed.subject, data))
    else:
        headers[part] = _flipped_text(headers[part], data)
        changed = msgspec.structs.replace(sealed, headers=headers)
    with pytest.raises(RemoteProtocolError):
        AUTHORITY.unseal(changed)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
@given(st.data())
def test_no_certificate_with_a_flipped_bit_is_admitted(data: st.DataObject):
    with pytest.raises(UntrustedIssuer):
        AUTHORITY.trust.admit(_flipped(WITNESS.der, data))


@given(st.binary(max_size=100))
def test_admitting_any_bytes_raises_nothing_but_an_untrusted_issuer(der: bytes):
    with pytest.raises(UntrustedIssuer):
        AUTHORITY.trust.admit(der)


@given(st.binary(max_size=60))
def test_a_record_or_a_snapshot_of_any_bytes_is_refused_as_malformed(data: bytes):
    with pytest.raises(MalformedEvent):
        records.decode(data)
    with pytest.raises(MalformedEvent):
        snapshot.load(data, MESH)


_REGISTRATIONS = st.dictionaries(
    st.sampled_from(
        [
            *("name", "id", "host", "port", "ports", "mode", "capabilities", "health_url", "metadata"),
            "deregister_after",
        ]
    ),
    JSON | st.integers() | st.sampled_from(["rag", "nan", "inf", "8080", "http://x:99999", "http://[", "::"]),
)


@given(_REGISTRATIONS | JSON)
def test_any_registration_gives_an_instance_that_can_be_sent_or_names_a_field(body: Any):
    made = _registered(json.dumps(body).encode())
    if isinstance(made, InvalidFieldError):
        assert made.field
        return
    event = InstanceRegistered(
        mesh=MESH, node="alpha", incarnation=1, revision=1, service=made.name, data=made
    )
    assert wire.decode(event.subject, wire.encode(event)) == event


def _registered(body: bytes) -> Instance | InvalidFieldError:
    try:
        wanted = parse_registration(body)
        return instance_of(
            wanted, node="alpha", node_host="alpha.example", node_mode="docked", held=None, now="now"
        )
    except InvalidFieldError as error:
        return error


def _flipped(data: bytes, choice: st.DataObject) -> bytes:
    bit = choice.draw(st.integers(0, len(data) * 8 - 1))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _flipped_text(text: str, choice: st.DataObject) -> str:
    return _flipped(text.encode(), choice).decode("latin-1")
