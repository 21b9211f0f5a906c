"""Whether a stream is the one that was followed, and what holds in one that replaced another."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest
from builders import MESH, NOW_MS, Story, evicted, instance, registered, revoked, rotated

from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.continuity import Reach, before_hole, begin_after, check_known
from pmoves_mesh.core.event import Event
from pmoves_mesh.core.records import Record
from pmoves_mesh.core.registry import Anchor
from pmoves_mesh.errors import SequenceGap

HELD = Anchor(8, "digest")


@pytest.mark.parametrize(
    ("position", "anchor", "after"), [(0, Anchor(), 0), (10, Anchor(), 10), (10, HELD, 7), (5, HELD, 5)]
)
def test_reading_begins_at_the_anchor_if_there_is_one(position: int, anchor: Anchor, after: int):
    assert begin_after(position, anchor) == after


@pytest.mark.parametrize(
    ("first", "last", "read", "known"),
    [
        (1, 10, HELD, True),
        (8, 20, HELD, True),
        (9, 20, Anchor(9, "x"), False),
        (11, 20, Anchor(11, "x"), False),
        (11, 10, Anchor(), False),
    ],
)
def test_a_stream_that_goes_on_is_known_again(first: int, last: int, read: Anchor, known: bool):
    assert check_known(10, HELD, first, last, read) is known


@pytest.mark.parametrize(
    ("first", "last", "read"),
    [
        (1, 9, HELD),
        (12, 20, Anchor(12, "x")),
        (1, 20, Anchor(8, "other")),
        (1, 20, Anchor(9, "x")),
        (1, 10, Anchor()),
    ],
    ids=["it ends before", "it begins after", "another event", "no event there", "nothing there"],
)
def test_another_history_and_a_truncated_one_are_told(first: int, last: int, read: Anchor):
    with pytest.raises(SequenceGap):
        check_known(10, HELD, first, last, read)


@pytest.mark.parametrize(
    ("positions", "before"), [((), None), ((5, 6, 7), None), ((7,), 4), ((5, 8), 5), ((2, 3, 4, 5), None)]
)
def test_the_first_hole_is_found(positions: tuple[int, ...], before: int | None):
    assert before_hole(4, positions) == before


@pytest.fixture
def story() -> Story:
    return Story()


def record_of(story: Story, event: Event, position: int) -> Record:
    sealed = envelope.seal(event, story.author(event))
    return records.record_of(sealed, event, position=position, time_ms=1)


def reach(held: Iterable[Record], floor: int = 0) -> Reach:
    noted = Reach(floor)
    for record in held:
        noted.note(record)
    return noted


def test_the_latest_record_up_to_the_floor_is_the_anchor_and_none_of_before_the_stream(story: Story):
    held = [record_of(story, registered(n), n) for n in (2, 5, 9)]
    assert reach(held, 8).anchor(MESH) == Anchor(5, envelope.digest(held[1].sealed, MESH))
    assert reach(reversed(held), 8).anchor(MESH) == Anchor(5, envelope.digest(held[1].sealed, MESH))
    assert reach(map(records.of_before, held), 8).anchor(MESH) == Anchor()


def test_how_far_records_reach_is_told_by_the_furthest_and_by_all_that_say_they_stand_there(story: Story):
    two, five, other = (record_of(story, registered(n), position) for n, position in ((2, 2), (5, 5), (6, 5)))
    ending = msgspec.structs.replace(two, ended=other)
    assert reach([five, ending]).position == 5
    assert reach([five, ending]).payloads == {bytes(five.event), bytes(other.event)}
    assert (reach([]).position, reach([]).payloads, reach([two, five]).keys) == (0, set(), 2)


# What was decreed before this stream


def test_a_revocation_of_before_this_stream_holds_for_everything_in_it(story: Story):
    story.tell(revoked(story.identity("alpha").fingerprint), position=0)
    assert story.tell(registered(1), position=1).outcome == "revoked"
    assert not story.listed()


def test_an_eviction_of_before_this_stream_holds_until_it_is_lifted_in_it(story: Story):
    story.tell(evicted(), position=0)
    story.tell(registered(1), position=1)
    assert not story.listed()
    story.tell(evicted(lifted=True), position=2)
    assert story.listed()


def test_of_two_evictions_of_before_this_stream_the_later_word_counts():
    for first, second, shown in ((1, 2, True), (2, 1, False)):
        other = Story()
        other.tell(evicted(), position=0, time_ms=first)
        other.tell(evicted(instance_id="1", lifted=True), position=0, time_ms=second)
        other.tell(registered(1), position=1)
        assert bool(other.listed()) is shown


def test_roots_of_before_this_stream_hold_until_the_next_rotation(story: Story):
    story.tell(rotated("first"), position=0)
    assert story.registry.roots.certificates == ("first",)
    story.tell(rotated("second"), position=3, time_ms=NOW_MS + 1)
    assert story.registry.roots.certificates == ("second",)
    story.tell(rotated("first"), position=0)
    assert story.registry.roots.certificates == ("second",)


def test_what_an_older_backup_brings_back_does_not_outrank_what_was_decreed_after_it(story: Story):
    story.tell(rotated("second"), position=0, time_ms=NOW_MS)
    assert story.tell(rotated("first"), position=3, time_ms=NOW_MS - 1).outcome == "repeated"
    assert story.registry.roots.certificates == ("second",)
    story.tell(registered(1), position=4)
    story.tell(evicted(lifted=True), position=0, time_ms=NOW_MS)
    assert story.tell(evicted(), position=5, time_ms=NOW_MS - 1).outcome == "repeated"
    assert story.listed()


@pytest.mark.parametrize("event", [evicted(), rotated("x")])
def test_a_record_of_a_decree_of_before_this_stream_outranks_older_ones_in_it(story: Story, event: Event):
    restored = msgspec.structs.replace(record_of(story, event, 7), time_ms=NOW_MS - 1)
    carried = records.of_before(msgspec.structs.replace(record_of(story, event, 5000), time_ms=NOW_MS))
    assert records.merged(restored, carried) == carried
    assert records.merged(carried, restored) is None


@pytest.mark.parametrize("event", [registered(1), evicted(), rotated("x")])
def test_a_record_of_this_stream_takes_the_place_of_the_same_one_of_before_it(story: Story, event: Event):
    now = record_of(story, event, 7)
    before = records.of_before(record_of(story, event, 5000))
    assert records.merged(before, now) == now
    assert records.merged(now, before) is None


def test_a_record_of_before_this_stream_is_news_only_by_its_stamp(story: Story):
    now = record_of(story, registered(1), 7)
    later = records.of_before(record_of(story, registered(2, instance(port=2)), 5000))
    assert records.merged(now, later) == later
