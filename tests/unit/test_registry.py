"""The registry: what is held, what is listed, and where a client is sent."""

from __future__ import annotations

import pytest
from builders import (
    NOW_MS,
    Story,
    announced,
    deregistered,
    evicted,
    expired,
    instance,
    left,
    lost,
    registered,
    revoked,
)

from pmoves_mesh.core.event import InstanceEvicted
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.core.registry import Eviction, NodeEntry, Registry, Turn

RAG = InstanceKey("rag", "alpha", "1")


def test_an_empty_registry_answers_every_look_up_with_nothing():
    registry = Registry()
    assert len(registry) == 0
    assert list(registry.entries()) == list(registry.of_service("rag")) == list(registry.services()) == []
    assert list(registry.with_capabilities(())) == list(registry.with_capabilities(("gpu",))) == []
    assert registry.entry(RAG) is None
    assert not registry.is_evicted(RAG)


def test_an_instance_is_found_by_key_service_and_capabilities():
    story = Story()
    story.tell(
        registered(1, instance(capabilities=("gpu", "rag"))),
        registered(2, instance("tts", capabilities=("gpu",))),
    )
    registry = story.registry
    entry = registry.entry(RAG)
    assert entry is not None
    assert entry.key == RAG
    assert list(registry.of_service("rag")) == [entry]
    assert sorted(registry.services()) == ["rag", "tts"]
    assert len(list(registry.with_capabilities(("gpu",)))) == 2
    assert list(registry.with_capabilities(("gpu", "rag", "gpu"))) == [entry]
    assert list(registry.with_capabilities(("gpu", "none"))) == []
    assert len(list(registry.with_capabilities(()))) == len(registry) == 2


def test_a_new_record_takes_the_place_of_the_old_one_in_every_index():
    story = Story()
    story.tell(registered(1, instance(capabilities=("gpu",))), registered(2, instance(capabilities=("tts",))))
    assert list(story.registry.with_capabilities(("gpu",))) == []
    assert len(list(story.registry.with_capabilities(("tts",)))) == len(story.registry) == 1


def test_a_capability_named_twice_does_not_confuse_the_index():
    story = Story()
    twice = instance(capabilities=("gpu", "gpu"))
    story.tell(registered(1, twice), registered(2, twice), deregistered(3, twice))
    assert len(story.registry) == 0
    assert list(story.registry.with_capabilities(("gpu",))) == []


def test_a_dropped_instance_leaves_every_index():
    story = Story()
    story.tell(registered(1, instance(capabilities=("gpu",))), deregistered(2))
    registry = story.registry
    assert len(registry) == 0
    assert list(registry.services()) == list(registry.entries()) == []
    assert list(registry.with_capabilities(("gpu",))) == []


@pytest.mark.parametrize(
    ("spoken", "left_at", "lost_at", "status"),
    [
        ((1, 1), (-1, 0), (-1, 0), "alive"),
        ((1, 1), (1, 2), (-1, 0), "left"),
        ((1, 1), (1, 2), (1, 2), "left"),
        ((1, 3), (1, 2), (1, 2), "alive"),
        ((1, 3), (1, 2), (1, 3), "lost"),
        ((2, 0), (1, 9), (1, 9), "alive"),
    ],
)
def test_a_nodes_status_follows_what_was_said_last(
    spoken: tuple[int, int], left_at: tuple[int, int], lost_at: tuple[int, int], status: str
):
    node = NodeEntry("alpha", spoken=Stamp(*spoken), left=Stamp(*left_at), lost=Stamp(*lost_at))
    assert node.status == status
    assert node.latest == max(Stamp(*spoken), Stamp(*left_at))


def test_an_instance_is_listed_while_its_node_is_lost_but_not_discoverable():
    story = Story()
    story.tell(registered(1), lost(1))
    (entry,) = story.registry.entries()
    assert story.registry.is_listed(entry)
    assert not story.registry.is_discoverable(entry)


def test_an_instance_of_a_node_that_left_is_not_discoverable():
    story = Story()
    story.tell(registered(1), left(2))
    (entry,) = story.registry.entries()
    assert story.registry.is_listed(entry)
    assert not story.registry.is_discoverable(entry)


def test_an_instance_in_maintenance_is_listed_but_not_discoverable():
    story = Story()
    story.tell(registered(1, instance(maintenance=True)))
    (entry,) = story.registry.entries()
    assert story.registry.is_listed(entry)
    assert not story.registry.is_discoverable(entry)


def test_an_expired_instance_is_not_listed_until_its_node_speaks_again():
    story = Story()
    story.tell(registered(1), lost(1), expired(1))
    assert story.listed() == set()
    story.tell(announced(2))
    assert story.listed() == {("rag", "alpha", "1")}


def test_an_instance_signed_by_a_revoked_certificate_is_not_listed():
    story = Story()
    story.tell(registered(1))
    story.tell(revoked(story.identity("alpha").fingerprint))
    assert story.listed() == set()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ([evicted(instance_id="1")], False),
        ([evicted()], False),
        ([evicted(instance_id="2")], True),
        ([evicted("tts")], True),
        ([evicted(node="beta")], True),
        ([evicted(), evicted(lifted=True)], True),
        ([evicted(instance_id="1"), evicted(lifted=True)], True),
        ([evicted(), evicted(instance_id="1", lifted=True)], True),
        ([evicted(instance_id="1", lifted=True), evicted()], False),
    ],
)
def test_the_latest_word_of_an_operator_about_an_instance_holds(words: list[InstanceEvicted], *, shown: bool):
    story = Story()
    story.tell(registered(1), *words)
    assert (story.listed() != set()) is shown


def test_an_eviction_outranks_every_later_word_of_the_owner():
    story = Story()
    story.tell(registered(1), evicted(), registered(2), announced(3), registered(1, incarnation=2))
    assert story.listed() == set()
    assert len(story.registry) == 1


def test_the_state_holds_what_replicas_must_agree_on():
    story = Story()
    story.tell(registered(1), announced(2), evicted(), revoked("a" * 64))
    state = story.registry.state()
    assert set(state) == {"nodes", "instances", "listed", "evictions", "revoked", "roots"}
    assert state["listed"] == set()
    assert list(state["instances"]) == [RAG]
    assert state["nodes"]["alpha"][-1] == "alive"
    assert state["revoked"] == {"a" * 64: 4}
    assert state["evictions"] == {("rag", "alpha", None): Eviction(Turn(3, NOW_MS), evicts=True)}
