"""Events: what each kind carries, and on which subject it travels."""

from __future__ import annotations

import re
from typing import get_args

import msgspec
import pytest
from builders import about, announced, evicted, expired, instance, left, lost, registered, revoked, rotated

from pmoves_mesh.core import event, wire
from pmoves_mesh.core.event import (
    EVENT_TYPES,
    STREAM_SUBJECTS,
    Event,
    InstanceHealthChanged,
    InstanceMaintained,
    InstanceUnregistered,
    InstanceUpdated,
)
from pmoves_mesh.core.model import InstanceKey, Stamp

SUBJECTS = [
    "mesh.node.announce.v1",
    "mesh.node.leave.v1",
    "mesh.node.lost.v1",
    "service.registry.registered",
    "service.registry.updated",
    "service.registry.health",
    "service.registry.maintenance",
    "service.registry.deregistered",
    "service.registry.unregistered",
    "service.registry.expired",
    "service.registry.evicted",
    "mesh.trust.revoked.v1",
    "mesh.trust.rotated.v1",
    "mesh.node.cloned.v1",
    "mesh.trust.issued.v1",
    "mesh.trust.refused.v1",
]


def test_every_kind_of_event_is_known_under_its_own_subject():
    assert [kind.subject for kind in EVENT_TYPES] == SUBJECTS
    assert set(EVENT_TYPES) == set(get_args(Event))


@pytest.mark.parametrize("subject", SUBJECTS)
def test_the_stream_claims_every_subject_of_ours(subject: str):
    patterns = [re.escape(claim).replace(r"\*", "[^.]+") for claim in STREAM_SUBJECTS]
    assert any(re.fullmatch(pattern, subject) for pattern in patterns)


@pytest.mark.parametrize("subject", ["mesh.gpu.status.v1", "mesh.node.announce.v2", "service.health.rag"])
def test_the_stream_claims_nothing_of_other_programs(subject: str):
    patterns = [re.escape(claim).replace(r"\*", "[^.]+") for claim in STREAM_SUBJECTS]
    assert not any(re.fullmatch(pattern, subject) for pattern in patterns)


def test_an_event_is_ordered_by_its_stamp():
    assert registered(7, incarnation=3).stamp == Stamp(3, 7)


@pytest.mark.parametrize("kind", [InstanceUpdated, InstanceHealthChanged, InstanceMaintained])
def test_an_owners_event_is_about_the_instance_in_its_record(kind: type[object]):
    assert about(kind, 1, instance("tts", "beta", "9")).key == InstanceKey("tts", "beta", "9")


def test_an_expiry_names_the_instance_without_its_record():
    assert expired(1, instance("tts", "beta", "9")).key == InstanceKey("tts", "beta", "9")


def test_an_announcement_is_a_superset_of_what_older_readers_expect():
    body = msgspec.json.decode(wire.encode(announced(1)))
    expected = "type node node_id hostname host port mode caps capabilities services_running tailscale_ip"
    assert {*expected.split(), "ts", "timestamp", "instances", "resources"} <= body.keys()
    assert {"mesh", "incarnation", "revision", "prev"} <= body.keys()
    assert body["type"] == "mesh.node.announce.v1"


def test_a_registry_event_has_the_shape_of_the_present_registry():
    body = msgspec.json.decode(wire.encode(about(InstanceUnregistered, 1)))
    assert body["type"] == "unregistered"
    assert body["service"] == body["data"]["name"] == "rag"
    assert "timestamp" in body


@pytest.mark.parametrize(
    "one",
    [left(1), lost(1), expired(1), evicted(), revoked("a" * 64), rotated("pem")],
    ids=lambda one: one.type,
)
def test_every_event_says_its_type(one: Event):
    assert msgspec.json.decode(wire.encode(one))["type"] == one.type


def test_a_manifest_has_a_bound():
    assert event.MANIFEST_ENTRIES_MAX == 2000
