"""What microservices say of themselves: read with care, registered without an address, owned by one node."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest
from builders import Story, evicted, instance, lost, registered
from hypothesis import given
from hypothesis import strategies as st
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats

from pmoves_mesh.agent.micro.answering import is_inbox, of_mesh
from pmoves_mesh.agent.micro.protocol import (
    CAPABILITY,
    Asked,
    Info,
    answer,
    instance_id,
    is_micro,
    owner_of,
    parse_info,
    parse_subject,
    registration_of,
)
from pmoves_mesh.core.check import TtlCheck
from pmoves_mesh.core.names import parse_instance_id
from pmoves_mesh.core.registration import instance_of
from pmoves_mesh.errors import MalformedEvent

NODES = ("alpha", "beta", "gamma")


def info(**changed: Any) -> Info:
    return parse_info(json.dumps({"name": "Echo_1", "id": "X1", "version": "1.0.0", **changed}).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_malformed(payload: bytes):
    with suppress(MalformedEvent):
        assert isinstance(parse_info(payload), Info)


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "a.b"},
        {"name": ""},
        {"name": 7},
        {"id": ""},
        {"id": "x" * 300},
        {"metadata": "no"},
        {"endpoints": [{}] * 65},
        {"description": "x" * 2000},
    ],
)
def test_an_answer_that_is_not_what_the_protocol_has_is_refused(changed: dict[str, Any]):
    with pytest.raises(MalformedEvent):
        info(**changed)


def test_it_becomes_an_instance_without_an_address_whatever_it_says():
    said = {
        "capabilities": "tts, , not!a!capability,echo",
        "host": "203.0.113.9",
        "port": "666",
        "ports": "1",
    }
    wanted = registration_of(info(metadata=said), 60)
    record = instance_of(
        wanted, node="alpha", node_host="10.0.0.1", node_mode="docked", held=None, now="2026-01-01"
    )
    assert (record.name, record.id, record.host, record.port) == ("echo-1", "X1", "10.0.0.1", 0)
    assert record.capabilities == (CAPABILITY, "tts", "echo")
    assert wanted.check == TtlCheck(ttl_s=60, remove_after_s=60)
    assert is_micro(record)
    assert not is_micro(instance(capabilities=(CAPABILITY,)))


@given(st.text(min_size=1, max_size=256))
def test_every_id_becomes_one_that_an_instance_can_have_and_different_ones_stay_so(text: str):
    made = instance_id(text)
    assert parse_instance_id(made) == made
    assert instance_id(f"{text}!") != made


def test_the_node_that_it_names_owns_it_if_that_lives():
    assert owner_of(info(metadata={"node": "beta"}), NODES) == "beta"
    assert owner_of(info(metadata={"node": "gone"}), NODES) == owner_of(info(), NODES)
    assert owner_of(info(metadata={"node": 7}), NODES) in NODES


@given(st.sets(st.text("abcdef", min_size=1, max_size=4), min_size=2, max_size=8), st.data())
def test_all_agree_on_the_owner_and_only_what_a_node_owned_moves_when_it_goes(
    nodes: set[str], data: st.DataObject
):
    gone = data.draw(st.sampled_from(sorted(nodes)))
    for number in range(20):
        one = info(id=str(number))
        owner = owner_of(one, nodes)
        assert owner == owner_of(one, sorted(nodes, reverse=True))
        assert owner == gone or owner_of(one, nodes - {gone}) == owner


def test_many_services_are_spread_over_the_nodes():
    owners = Counter(owner_of(info(id=str(number)), NODES) for number in range(300))
    assert min(owners[node] for node in NODES) > 60


@pytest.mark.parametrize(
    ("subject", "asked"),
    [
        ("$SRV.PING", Asked(verb="PING")),
        ("$SRV.INFO.whisper", Asked(verb="INFO", name="whisper")),
        ("$SRV.STATS.whisper.alpha-1", Asked(verb="STATS", name="whisper", id="alpha-1")),
        ("$SRV.DELETE", None),
        ("$SRV", None),
        ("$SRV.PING.a.b.c", None),
        ("SRV.PING", None),
    ],
)
def test_a_question_is_read_from_its_subject(subject: str, asked: Asked | None):
    assert parse_subject(subject) == asked


def test_every_answer_is_one_that_a_nats_client_reads():
    record = instance(node="alpha", registered_at="2026-01-02T03:04:05.678Z", metadata={"version": "2.0.0"})

    def said(verb: Any) -> dict[str, Any]:
        found = answer(Asked(verb=verb, name=record.name), record)
        assert found is not None
        return json.loads(found)

    assert ServicePing.from_dict(said("PING")).version == "2.0.0"
    assert ServiceInfo.from_dict(said("INFO")).description == f"{record.name} on alpha"
    assert ServiceStats.from_dict(said("STATS")).started.isoformat() == "2026-01-02T03:04:05.678000"
    assert all(isinstance(value, str) for value in said("PING")["metadata"].values())


def test_nobody_answers_for_a_name_or_an_id_that_is_not_meant():
    record = instance(node="alpha")
    assert answer(Asked(verb="PING", name="other"), record) is None
    assert answer(Asked(verb="PING", name=record.name, id=record.id), record) is None
    assert answer(Asked(verb="PING", name=record.name, id=f"alpha-{record.id}"), record) is not None


def test_whoever_answers_for_a_whole_mesh_leaves_out_who_is_lost_or_evicted():
    story = Story()
    story.tell(
        registered(1, instance("rag", "alpha")),
        registered(2, instance("tts", "alpha")),
        registered(1, instance("rag", "beta")),
        registered(1, instance("rag", "gamma")),
        lost(1, "gamma"),
        evicted("rag", "beta"),
    )
    assert {(one.name, one.node) for one in of_mesh(story.registry, "")} == {
        ("rag", "alpha"),
        ("tts", "alpha"),
    }
    assert [one.node for one in of_mesh(story.registry, "rag")] == ["alpha"]
    assert list(of_mesh(story.registry, "nothing")) == []


@pytest.mark.parametrize("version", ["latest", "1.0", 7, None])
def test_a_version_that_is_none_is_not_passed_on(version: object):
    found = answer(Asked(verb="PING"), instance(metadata={"version": version}))
    assert found is not None
    assert json.loads(found)["version"] == "0.0.0"


@pytest.mark.parametrize(
    ("reply", "may"),
    [
        ("_INBOX.abc.1", True),
        ("", False),
        ("$JS.API.STREAM.DELETE.MESH_EVENTS", False),
        ("$KV.MESH_LEASES.alpha", False),
        ("_INBOX.>", False),
        ("_INBOX.*.x", False),
        ("_INBOXES.x", False),
    ],
)
def test_an_answer_goes_into_an_inbox_or_nowhere(reply: str, *, may: bool):
    assert is_inbox(reply) is may
