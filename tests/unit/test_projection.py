"""The projection: what each event does to the registry, in its turn and out of it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import (
    MESH,
    NOW_MS,
    Story,
    about,
    announced,
    deregistered,
    evicted,
    expired,
    instance,
    left,
    line,
    lost,
    registered,
    revoked,
    rotated,
)

from pmoves_mesh.core import envelope
from pmoves_mesh.core.envelope import VerifiedEvent
from pmoves_mesh.core.event import (
    EnrolmentRefused,
    Event,
    IdentityIssued,
    InstanceHealthChanged,
    InstanceMaintained,
    InstanceUnregistered,
    InstanceUpdated,
    NodeCloned,
    RetiredRoot,
)
from pmoves_mesh.core.model import InstanceKey, Stamp
from pmoves_mesh.core.projection import REMOVAL_KEPT_MS, apply
from pmoves_mesh.core.registry import Registry, Roots, Turn

RAG = InstanceKey("rag", "alpha", "1")
TTS = InstanceKey("tts", "alpha", "1")
ANNOUNCE = "mesh.node.announce.v1"


def test_a_registration_makes_an_instance_and_a_living_node():
    story = Story()
    change = story.tell(registered(1))
    assert (change.outcome, change.instances, change.nodes) == ("applied", (RAG,), ("alpha",))
    (entry,) = story.registry.entries()
    assert (entry.stamp, entry.position, entry.time_ms) == (Stamp(1, 1), 1, NOW_MS)
    assert (entry.verified, entry.signer) == (True, "spiffe://pmoves-mesh/node/alpha")
    assert story.registry.nodes["alpha"].status == "alive"
    assert (story.registry.position, story.registry.version) == (1, 1)


@pytest.mark.parametrize("kind", [InstanceUpdated, InstanceHealthChanged, InstanceMaintained])
def test_every_statement_of_the_owner_replaces_the_record(kind: type):
    story = Story()
    change = story.tell(registered(1), about(kind, 2, instance(port=9)))
    assert (change.outcome, change.instances, change.nodes) == ("applied", (RAG,), ())
    assert [entry.record.port for entry in story.registry.entries()] == [9]


def test_a_repetition_changes_nothing():
    story = Story()
    change = story.tell(registered(1), registered(1))
    assert (change.outcome, change.instances, change.nodes) == ("repeated", (), ())
    assert (story.registry.version, story.registry.position) == (1, 2)


def test_an_older_statement_is_outdated():
    story = Story()
    assert story.tell(registered(2, instance(port=2)), registered(1)).outcome == "outdated"
    assert [entry.record.port for entry in story.registry.entries()] == [2]


def test_an_own_event_gets_its_position_once_the_stream_has_it():
    story = Story()
    story.tell(registered(1), position=0)
    (entry,) = story.registry.entries()
    assert (entry.position, story.registry.position) == (0, 0)
    change = story.tell(registered(1), position=7, time_ms=NOW_MS + 5)
    assert (change.outcome, change.instances) == ("repeated", (RAG,))
    (entry,) = story.registry.entries()
    assert (entry.position, entry.time_ms) == (7, NOW_MS + 5)


def test_an_own_event_of_an_evicted_instance_settles_unseen():
    story = Story()
    story.tell(evicted())
    story.tell(registered(1), position=0)
    assert story.tell(registered(1), position=7).instances == ()


def test_the_first_copy_in_the_stream_gives_position_and_time():
    story = Story()
    story.tell(registered(1), announced(2), position=9)
    story.tell(registered(1), announced(2), position=5, time_ms=NOW_MS - 1)
    story.tell(registered(1), announced(2), position=8)
    (entry,) = story.registry.entries()
    assert (entry.position, entry.time_ms) == (5, NOW_MS - 1)
    assert story.registry.nodes["alpha"].position == 5


@pytest.mark.parametrize("kind", [InstanceUnregistered, None])
def test_a_removal_drops_the_instance_and_is_remembered(kind: type | None):
    story = Story()
    removal = deregistered(2) if kind is None else about(kind, 2)
    change = story.tell(registered(1), removal)
    assert (change.outcome, change.instances) == ("applied", (RAG,))
    assert len(story.registry) == 0
    assert story.tell(registered(1)).outcome == "outdated"
    assert story.tell(removal).outcome == "repeated"
    assert story.tell(registered(3)).outcome == "applied"
    assert story.tell(removal).outcome == "outdated"
    assert len(story.registry) == 1


def test_a_removal_that_arrives_first_still_holds():
    story = Story()
    assert story.tell(deregistered(2)).outcome == "applied"
    assert story.tell(registered(1)).outcome == "outdated"


def test_a_manifest_drops_what_it_leaves_out_and_keeps_what_is_newer():
    story = Story()
    story.tell(registered(1), registered(2, instance("tts")), registered(9, instance("new")))
    change = story.tell(announced(5, [line(2, "tts")]))
    assert change.instances == (RAG,)
    assert change.missing == ()
    assert story.listed() == {("tts", "alpha", "1"), ("new", "alpha", "1")}
    assert story.tell(registered(1)).outcome == "outdated"
    assert story.tell(deregistered(3)).outcome == "outdated"


def test_a_manifest_says_what_is_to_be_fetched_until_it_arrives():
    story = Story()
    story.tell(registered(1))
    change = story.tell(announced(5, [line(3), line(4, "tts")]))
    assert set(change.missing) == {RAG, TTS}
    assert set(story.tell(announced(5, [line(3), line(4, "tts")])).missing) == {RAG, TTS}
    assert story.tell(registered(2)).outcome == "outdated"
    assert story.tell(registered(3)).outcome == "applied"
    assert story.tell(deregistered(6, instance("tts"))).outcome == "applied"
    assert story.registry.nodes["alpha"].missing == {}
    assert story.tell(registered(4, instance("tts"))).outcome == "outdated"


def test_a_manifest_keeps_what_an_earlier_incarnation_registered():
    story = Story()
    story.tell(registered(5), registered(6, instance("tts")))
    change = story.tell(announced(1, [line(5, incarnation=1)], incarnation=2))
    assert change.instances == (TTS,)
    assert change.missing == ()
    assert story.listed() == {("rag", "alpha", "1")}


def test_a_removal_above_the_manifest_outlives_it():
    story = Story()
    story.tell(registered(1), deregistered(7))
    assert story.tell(announced(5, [line(1)])).missing == ()
    assert story.tell(registered(1)).outcome == "outdated"


def test_an_announcement_without_manifest_drops_nothing_and_forgets_removals_after_an_hour():
    story = Story()
    story.tell(registered(1), registered(2, instance("tts")), deregistered(3, instance("tts")))
    story.tell(announced(4), time_ms=NOW_MS + REMOVAL_KEPT_MS - 1)
    assert set(story.registry.nodes["alpha"].removed) == {TTS}
    story.tell(announced(5), time_ms=NOW_MS + REMOVAL_KEPT_MS)
    assert story.registry.nodes["alpha"].removed == {}
    assert len(story.registry) == 1


def test_a_manifest_that_arrives_after_a_later_announcement_without_one_still_holds():
    story = Story()
    story.tell(registered(1), announced(7))
    change = story.tell(announced(5, [line(4, "tts")]))
    assert (change.outcome, change.instances, change.missing) == ("applied", (RAG,), (TTS,))
    assert story.registry.nodes["alpha"].announced == announced(7)
    assert story.tell(announced(4, [])).outcome == "outdated"
    assert story.tell(announced(6)).outcome == "outdated"


def test_an_older_manifest_than_the_one_that_holds_is_outdated():
    story = Story()
    story.tell(registered(1), announced(5, [line(1)]))
    assert story.tell(announced(4, [])).outcome == "outdated"
    assert len(story.registry) == 1


@pytest.mark.parametrize("ending", [left(2), lost(1)])
def test_a_node_that_goes_takes_its_instances_with_it_until_it_speaks(ending: Event):
    story = Story()
    change = story.tell(registered(1), ending)
    assert (change.outcome, change.instances, change.nodes) == ("applied", (RAG,), ("alpha",))
    assert story.registry.nodes["alpha"].status == ending.type.split(".")[2].replace("leave", "left")
    assert story.tell(ending).outcome == "repeated"
    back = story.tell(announced(3))
    assert (back.instances, back.nodes) == ((RAG,), ("alpha",))
    assert story.registry.nodes["alpha"].status == "alive"


@pytest.mark.parametrize(("newer", "older"), [(left(5), left(4)), (lost(5), lost(4))])
def test_an_ending_older_than_one_that_is_known_is_outdated(newer: Event, older: Event):
    story = Story()
    assert story.tell(newer, older).outcome == "outdated"


def test_a_loss_of_something_the_node_has_outlived_changes_nothing():
    story = Story()
    change = story.tell(registered(1), registered(2), lost(1))
    assert (change.outcome, change.instances, change.nodes) == ("applied", (), ())
    assert story.registry.nodes["alpha"].status == "alive"


def test_a_statement_brings_every_instance_of_a_lost_node_back():
    story = Story()
    change = story.tell(registered(1), lost(1), registered(2, instance("tts")))
    assert set(change.instances) == {RAG, TTS}
    assert change.nodes == ("alpha",)


def test_an_expiry_takes_an_instance_off_the_list_until_its_node_speaks():
    story = Story()
    change = story.tell(registered(1), registered(2, instance("tts")), lost(2), expired(2))
    assert (change.outcome, change.instances) == ("applied", (RAG,))
    assert story.tell(expired(2)).outcome == "repeated"
    assert story.listed() == {("tts", "alpha", "1")}
    back = story.tell(registered(3, instance("tts")))
    assert set(back.instances) == {RAG, TTS}
    assert story.tell(expired(2)).outcome == "outdated"
    assert len(story.listed()) == 2


def test_an_expiry_that_arrives_before_what_it_expires_still_holds():
    story = Story()
    assert story.tell(expired(2)).instances == ()
    story.tell(registered(1), registered(2, instance("tts")))
    assert story.listed() == {("tts", "alpha", "1")}


def test_an_expiry_of_a_living_nodes_instance_is_taken_back_by_its_next_word():
    story = Story()
    story.tell(registered(1), expired(1))
    change = story.tell(announced(2, [line(1)]))
    assert (change.outcome, change.instances, change.nodes) == ("applied", (RAG,), ("alpha",))


def test_an_expiry_of_what_an_operator_evicted_changes_nothing_that_is_seen():
    story = Story()
    assert story.tell(registered(1), evicted(), expired(1)).instances == ()


def test_an_eviction_concerns_the_instances_it_names():
    story = Story()
    story.tell(registered(1), registered(2, instance(instance_id="2")), registered(1, instance(node="beta")))
    change = story.tell(evicted())
    assert set(change.instances) == {RAG, InstanceKey("rag", "alpha", "2")}
    assert story.tell(evicted(instance_id="2", lifted=True)).instances == (InstanceKey("rag", "alpha", "2"),)
    assert story.listed() == {("rag", "alpha", "2"), ("rag", "beta", "1")}
    assert story.tell(evicted(), position=1).outcome == "repeated"


def test_a_revocation_hides_every_record_that_the_certificate_signed():
    story = Story()
    old = story.identity("alpha")
    story.tell(registered(1), announced(2))
    story._identities["alpha", "node"] = story.authority.identity("alpha")
    story.tell(announced(3), registered(4, instance("tts")))
    version = story.registry.version
    change = story.tell(revoked(old.fingerprint))
    assert (change.outcome, change.instances, change.nodes) == ("applied", (RAG,), ())
    assert story.registry.version == version + 1
    assert story.listed() == {("tts", "alpha", "1")}
    renewed = story.tell(revoked(story.identity("alpha").fingerprint))
    assert (renewed.instances, renewed.nodes) == ((TTS,), ("alpha",))


def test_what_a_revoked_certificate_signs_later_is_not_folded_in():
    story = Story()
    story.tell(registered(1), revoked(story.identity("alpha").fingerprint))
    assert story.tell(registered(2)).outcome == "revoked"
    assert story.tell(registered(2), position=0).outcome == "revoked"
    assert story.tell(registered(3, instance("tts")), position=1).outcome == "applied"
    assert story.registry.position == 3


def test_the_earliest_revocation_of_a_certificate_counts():
    story = Story()
    story.tell(revoked("a" * 64, "b" * 64), position=9)
    assert story.tell(revoked("a" * 64), position=9).outcome == "repeated"
    assert story.tell(revoked("a" * 64), position=4).outcome == "applied"
    assert story.registry.revoked == {"a" * 64: 4, "b" * 64: 9}


def test_the_latest_rotation_gives_the_roots():
    story = Story()
    story.tell(rotated("new"), position=9)
    assert story.tell(rotated("old"), position=4).outcome == "repeated"
    assert story.registry.roots == Roots(turn=Turn(9, NOW_MS), certificates=("new",))


def test_a_retired_root_ends_at_the_rotation_that_retires_it_unless_it_ended_earlier():
    story = Story()
    event = msgspec.structs.replace(
        rotated("new"),
        retired=(RetiredRoot(certificate="first", position=3), RetiredRoot(certificate="second")),
    )
    story.tell(event, position=9)
    assert story.registry.roots.retired == (("first", 3), ("second", 9))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (NodeCloned, {"clone": 7, "host": "elsewhere"}),
        (IdentityIssued, {"identity": "spiffe://pmoves-mesh/node/beta", "fingerprint": "0" * 64}),
        (EnrolmentRefused, {"reason": "token_used"}),
    ],
)
def test_what_a_node_notes_changes_nothing_but_that_the_node_spoke(kind: type[Event], fields: dict[str, Any]):
    story = Story()
    story.tell(announced(1), registered(2), lost(2))
    assert story.registry.nodes["alpha"].status == "lost"
    noted = kind(mesh=MESH, node="alpha", incarnation=1, revision=3, **fields)
    assert story.tell(noted).nodes == ("alpha",)
    assert story.registry.nodes["alpha"].status == "alive"
    assert story.tell(noted).outcome == "repeated"
    assert story.listed() == {("rag", "alpha", "1")}


def test_a_link_missing_in_a_nodes_chain_is_a_gap():
    story = Story()
    first = registered(1)
    story.tell(first)
    digest = story.registry.nodes["alpha"].head
    assert not story.tell(registered(2, prev=digest)).gap
    assert story.tell(registered(4, prev="f" * 64)).gap
    assert not story.tell(left(3, prev="e" * 64)).gap
    assert story.registry.nodes["alpha"].gaps == 1


@pytest.mark.parametrize("signed", [registered(1), announced(1), left(1), deregistered(1)])
def test_a_node_that_signs_is_not_spoken_for_by_unsigned_events(signed: Event):
    story = Story()
    bare = b'{"node":"alpha","port":80}'
    story.tell_unsigned(ANNOUNCE, bare)
    assert story.listed() == {("alpha", "alpha", "80")}
    change = story.tell(signed)
    assert InstanceKey("alpha", "alpha", "80") in change.instances
    assert not change.gap
    assert ("alpha", "alpha", "80") not in story.listed()
    before = story.registry.state()
    assert {one.outcome for one in story.tell_unsigned(ANNOUNCE, bare)} == {"outdated"}
    for subject in ("mesh.node.leave.v1", "mesh.node.offline.v1"):
        assert [one.outcome for one in story.tell_unsigned(subject, bare)] == ["outdated"]
    record = b'{"data":{"name":"rag","node":"alpha"}}'
    for word in ("registered", "unregistered"):
        assert story.tell_unsigned(f"service.registry.{word}", record)[0].outcome == "outdated"
    assert story.registry.state() == before
    announcement = story.registry.nodes["alpha"].announced
    assert announcement is None or announcement.incarnation == 1


def test_an_unsigned_node_lives_by_its_latest_message():
    story = Story()
    story.tell_unsigned(ANNOUNCE, b'{"node":"old","port":80}')
    story.tell_unsigned("mesh.node.offline.v1", b'{"node":"old"}')
    assert story.registry.nodes["old"].status == "left"
    story.tell_unsigned(ANNOUNCE, b'{"node":"old","port":81}')
    assert story.registry.nodes["old"].status == "alive"
    assert story.listed() == {("old", "old", "80"), ("old", "old", "81")}


def test_seeing_a_node_again_is_remembered_and_never_goes_back():
    story = Story()
    story.tell(announced(1), time_ms=NOW_MS + 10)
    story.tell(announced(1), time_ms=NOW_MS + 20)
    story.tell(announced(1), time_ms=NOW_MS)
    assert story.registry.nodes["alpha"].seen_ms == NOW_MS + 20


def test_the_version_grows_only_with_what_a_reader_could_see():
    story = Story()
    story.tell(registered(1))
    version = story.registry.version
    story.tell(registered(1), rotated("pem"), evicted("none"), lost(0, incarnation=0, node="alpha"))
    assert story.registry.version == version
    story.tell(evicted())
    assert story.registry.version == version + 1


def test_an_event_that_no_rule_is_written_for_is_a_bug_here():
    unknown = VerifiedEvent(object(), None, "", _by=envelope._UNSEALED)  # type: ignore[arg-type]
    with pytest.raises(AssertionError, match="unreachable"):
        apply(Registry(), unknown, position=1, time_ms=NOW_MS)


def test_the_position_only_grows():
    story = Story()
    sealed = envelope.seal(registered(1), story.identity("alpha"))
    (one,) = story.authority.unseal(sealed)
    apply(story.registry, one, position=5, time_ms=NOW_MS)
    apply(story.registry, one, position=3, time_ms=NOW_MS)
    assert story.registry.position == 5
