"""The audit: which streams are sound, and what is found in those that are not."""

from __future__ import annotations

import msgspec
import pytest
from builders import Authority, evicted, expired, lost
from chains import Node, audited, found, take

from pmoves_mesh.core import audit as core_audit
from pmoves_mesh.core import envelope
from pmoves_mesh.core.audit import Audit
from pmoves_mesh.core.envelope import SealedEvent

AUTHORITY = Authority()
ALPHA = AUTHORITY.identity("alpha")
BETA = AUTHORITY.identity("beta")
OMEGA = AUTHORITY.identity("omega")
ROOT = AUTHORITY.identity("root", "operator")


@pytest.fixture
def alpha() -> Node:
    return Node("alpha", ALPHA)


@pytest.fixture
def beta() -> Node:
    return Node("beta", BETA)


def many(node: Node, count: int) -> list[SealedEvent]:
    return [node.update() for _ in range(count)]


def changed(sealed: SealedEvent) -> SealedEvent:
    return msgspec.structs.replace(sealed, payload=sealed.payload.replace(b".example", b".forged!"))


def test_an_empty_stream_is_sound():
    report = Audit(first=1).report()
    assert report.sound
    assert (report.first, report.last, report.events) == (1, 0, 0)


def test_chains_that_are_whole_are_sound_and_counted(alpha: Node, beta: Node):
    stream = [alpha.announce(), beta.announce(), *many(alpha, 2), beta.update(), alpha.update()]
    report = audited(AUTHORITY, stream)
    assert report.sound
    assert (report.first, report.last, report.events) == (1, 6, 6)
    assert report.kinds == {"mesh.node.announce.v1": 2, "service.registry.updated": 4}
    assert report.signers == {"spiffe://pmoves-mesh/node/alpha": 4, "spiffe://pmoves-mesh/node/beta": 2}


def test_a_chain_goes_on_over_restarts(alpha: Node):
    stream = many(alpha, 2)
    alpha.restart()
    report = audited(AUTHORITY, [*stream, *many(alpha, 2)])
    assert report.sound
    assert not report.beginnings


def test_a_node_that_lost_its_disk_begins_anew_which_is_told_and_no_finding(alpha: Node):
    stream = many(alpha, 2)
    alpha.restart(disk_lost=True)
    report = audited(AUTHORITY, [*stream, *many(alpha, 2)])
    assert report.sound
    assert [(each.position, each.node) for each in report.beginnings] == [(3, "alpha")]


def test_a_node_that_lost_its_disk_and_its_clock_too_is_sound_once_it_knows_better(alpha: Node):
    alpha.restart(incarnation=100)
    stream = many(alpha, 2)
    alpha.restart(incarnation=50, disk_lost=True)
    stream += many(alpha, 2)
    alpha.restart(incarnation=101)
    report = audited(AUTHORITY, [*stream, *many(alpha, 2)])
    assert report.sound, report.findings
    assert [each.position for each in report.beginnings] == [3]


def test_witnesses_and_operators_are_no_links(alpha: Node):
    stream = [
        alpha.update(),
        envelope.seal(lost(1), OMEGA),
        envelope.seal(evicted(), ROOT),
        envelope.seal(expired(1), OMEGA),
        alpha.update(),
    ]
    assert audited(AUTHORITY, stream).sound


def test_repetitions_and_older_words_share_a_place_and_may_be_missing(alpha: Node):
    announcement = alpha.announce()
    removal, alias = alpha.remove()
    after = alpha.update()
    repeated = [alpha.repeat(announcement, number) for number in (1, 2)]
    assert audited(AUTHORITY, [announcement, repeated[0], removal, alias, after, repeated[1]]).sound
    assert audited(AUTHORITY, [announcement, removal, after]).sound


def test_an_event_that_was_sent_once_more_is_sound(alpha: Node):
    stream = many(alpha, 3)
    assert audited(AUTHORITY, [*stream, *stream, alpha.update()]).sound


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_an_event_that_is_missing_is_found_at_the_next_of_its_node(alpha: Node, beta: Node, gone: int):
    stream = [alpha.announce(), *many(alpha, 4)]
    left = [*stream[:gone], beta.announce(), *stream[gone + 1 :]]
    assert found(audited(AUTHORITY, left)) == [(gone + 2, "gap")]


def test_a_first_event_that_follows_on_another_is_found_where_the_stream_begins_at_its_beginning(alpha: Node):
    _, *rest = many(alpha, 3)
    report = audited(AUTHORITY, rest)
    assert found(report) == [(1, "gap")]
    assert "begins here" in report.findings[0].detail


def test_what_the_stream_dropped_within_its_bounds_is_not_missing(alpha: Node, beta: Node):
    announcement, *rest = [alpha.announce(), *many(alpha, 3)]
    repeated = alpha.repeat(announcement)
    stream = [repeated, *rest[1:], beta.announce()]
    assert audited(AUTHORITY, stream, first=7).sound
    assert found(audited(AUTHORITY, [repeated, rest[0], rest[2]], first=7)) == [(9, "gap")]


def test_an_older_word_does_not_stand_for_the_removal_that_was_taken_out(alpha: Node):
    first = alpha.update()
    _, alias = alpha.remove()
    assert found(audited(AUTHORITY, [first, alias, alpha.update()])) == [(2, "gap"), (3, "gap")]


def test_a_repetition_does_not_stand_for_the_announcement_that_was_taken_out(alpha: Node):
    first, announcement = alpha.update(), alpha.announce()
    report = audited(AUTHORITY, [first, alpha.repeat(announcement)])
    assert found(report) == [(2, "gap")]
    assert "repeats" in report.findings[0].detail


def test_two_events_that_changed_places_are_out_of_order_and_not_missing(alpha: Node):
    one, two, three, four = many(alpha, 4)
    report = audited(AUTHORITY, [one, three, two, four])
    assert found(report) == [(2, "order")]
    assert report.reasons == {"order": 1}


def test_a_changed_event_is_found_once_and_not_as_missing_too(alpha: Node):
    one, two, three = many(alpha, 3)
    assert found(audited(AUTHORITY, [one, changed(two), three])) == [(2, "bad_signature"), (3, "gap")]


def test_a_genuine_event_that_is_refused_breaks_no_chain(alpha: Node):
    one, two, three = many(alpha, 3)
    audit = Audit(first=1)
    for position, sealed in enumerate((one, two, three), 1):
        if sealed is two:
            (verified,) = AUTHORITY.unseal(sealed)
            error = core_audit.RemoteProtocolError("for some reason")
            audit.refuse(sealed, error, position=position, signer="alpha", digest=verified.digest)
        else:
            take(audit, AUTHORITY, sealed, position)
    assert found(audit.report()) == [(2, "protocol")]


def test_two_lives_of_one_identity_are_a_fork(alpha: Node):
    stream = many(alpha, 2)
    clone = Node("alpha", ALPHA, alpha.incarnation, alpha.revision, alpha.head)
    clone.restart(incarnation=7)
    stream += [alpha.update(), clone.update()]
    assert found(audited(AUTHORITY, stream)) == [(4, "fork")]


def test_another_event_of_the_same_place_is_a_fork(alpha: Node):
    stream = many(alpha, 2)
    clone = Node("alpha", ALPHA, alpha.incarnation, alpha.revision, alpha.head)
    stream += [alpha.update(), clone.announce()]
    assert found(audited(AUTHORITY, stream)) == [(4, "fork")]


def test_an_event_that_follows_on_nothing_in_the_middle_is_found(alpha: Node):
    stream = many(alpha, 2)
    alpha.head = ""
    assert found(audited(AUTHORITY, [*stream, alpha.update()])) == [(3, "gap")]


def test_findings_beyond_the_bound_are_counted_and_not_kept(alpha: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(core_audit, "FINDINGS_MAX", 2)
    stream = [changed(one) for one in many(alpha, 5)]
    report = audited(AUTHORITY, stream)
    assert found(report) == [(1, "bad_signature"), (2, "bad_signature")]
    assert report.reasons == {"bad_signature": 5}
    assert not report.sound


def test_beginnings_beyond_the_bound_are_not_kept(alpha: Node, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(core_audit, "_BEGINNINGS_MAX", 2)
    stream = [alpha.update()]
    for _ in range(4):
        alpha.restart(disk_lost=True)
        stream.append(alpha.update())
    report = audited(AUTHORITY, stream)
    assert report.sound
    assert [each.position for each in report.beginnings] == [2, 3]


def test_what_has_no_digest_is_followed_by_nothing(alpha: Node):
    audit = Audit(first=1)
    one = alpha.update()
    take(audit, AUTHORITY, one, 1)
    audit.refuse(one, core_audit.RemoteProtocolError(), position=2, signer="nobody", digest="")
    alpha.head = ""
    take(audit, AUTHORITY, alpha.update(), 3)
    assert found(audit.report()) == [(2, "protocol"), (3, "gap")]


def test_what_the_stream_lacks_is_told_from_what_it_holds(alpha: Node, beta: Node):
    one, two = many(alpha, 2)
    decree = envelope.seal(evicted(), ROOT)
    audit = Audit(first=1)
    take(audit, AUTHORITY, one, 1)
    lacking = {
        name: audit.lacks(AUTHORITY.unseal(sealed)[0])
        for name, sealed in {
            "held": one,
            "newer": two,
            "of a node that was never seen": beta.update(),
            "a decree": decree,
            "of a witness": envelope.seal(lost(1), OMEGA),
        }.items()
    }
    assert lacking == {
        "held": False,
        "newer": True,
        "of a node that was never seen": True,
        "a decree": True,
        "of a witness": False,
    }
    take(audit, AUTHORITY, decree, 2)
    assert not audit.lacks(AUTHORITY.unseal(decree)[0])
    audit.miss(AUTHORITY.unseal(two)[0], 3)
    assert found(audit.report()) == [(3, "cut")]
