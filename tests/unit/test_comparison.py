"""Comparing by marks: every way in which two can say different things of a key."""

from __future__ import annotations

import msgspec
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
    line,
    lost,
    registered,
)

from pmoves_mesh.core import envelope, records
from pmoves_mesh.core.comparison import Difference, Mark, compare, marks_in, marks_of, shown_of
from pmoves_mesh.core.event import Event
from pmoves_mesh.core.model import NEVER, Stamp
from pmoves_mesh.core.records import Record

RAG = "service.rag.alpha.1"


@pytest.fixture
def story() -> Story:
    return Story()


def record_of(story: Story, event: Event, ended: Event | None = None) -> Record:
    sealed = envelope.seal(event, story.author(event))
    record = records.record_of(sealed, event, position=1, time_ms=NOW_MS)
    return record if ended is None else msgspec.structs.replace(record, ended=record_of(story, ended))


def test_a_registry_and_the_bucket_that_belongs_to_it_have_the_same_marks(story: Story):
    said = (announced(2, [line(1)]), registered(1))
    story.tell(*said)
    held = {records.key_of(event): record_of(story, event) for event in said}
    assert marks_of(story.registry) == marks_in(held)
    assert marks_of(story.registry)[RAG] == Mark(Stamp(1, 1))


@pytest.mark.parametrize(("ending", "status"), [(left(3), "left"), (lost(2), "lost")])
def test_a_node_that_is_gone_is_marked_by_its_announcement_and_its_status(
    story: Story, ending: Event, status: str
):
    story.tell(announced(2, []), ending)
    held = {"node.alpha": record_of(story, ending, announced(2, []))}
    assert marks_of(story.registry) == marks_in(held) == {"node.alpha": Mark(Stamp(1, 2), status)}
    assert marks_in({"node.alpha": record_of(story, ending)}) == {}


def test_an_expired_instance_is_marked_as_that_and_what_was_removed_not_at_all(story: Story):
    story.tell(registered(1), registered(2, instance("gone")), deregistered(3, instance("gone")), expired(3))
    held = {
        RAG: record_of(story, expired(3), registered(1)),
        "service.gone.alpha.1": record_of(story, deregistered(3, instance("gone"))),
    }
    assert marks_of(story.registry) == marks_in(held) == {RAG: Mark(Stamp(1, 1), "expired")}
    assert marks_in({RAG: record_of(story, expired(3))}) == {}
    assert RAG not in shown_of(story.registry)


def test_an_expiry_that_is_only_remembered_has_no_mark_once_the_node_announced_itself_again(story: Story):
    said = (registered(1), announced(2, [line(1)]), lost(2), expired(2), announced(3, []))
    story.tell(*said)
    held = {
        RAG: record_of(story, expired(2), registered(1)),
        "node.alpha": record_of(story, announced(3, [])),
    }
    assert marks_of(story.registry) == marks_in(held) == {"node.alpha": Mark(Stamp(1, 3), "alive")}


def test_decrees_are_marked_and_notes_are_not(story: Story):
    decree = record_of(story, evicted())
    story.registry.decrees["evicted.rag.alpha._"] = records.encode(decree)
    assert marks_of(story.registry) == {"evicted.rag.alpha._": Mark(decree.stamp)}
    assert marks_in({"noted.alpha": decree}) == {}


def test_readers_see_statuses_and_revisions_and_nothing_that_is_evicted(story: Story):
    story.tell(announced(2, [line(1)]), registered(1), registered(3, instance("hidden")), evicted("hidden"))
    assert shown_of(story.registry) == {"node.alpha": Mark(NEVER, "alive"), RAG: Mark(Stamp(0, 1))}


def test_each_problem_has_its_name():
    wanted = {key: Mark(Stamp(1, 5), "alive") for key in ("same", "missing", "older", "newer", "other")}
    held = {
        "same": Mark(Stamp(1, 5), "alive"),
        "older": Mark(Stamp(1, 4), "alive"),
        "newer": Mark(Stamp(2, 1), "alive"),
        "other": Mark(Stamp(1, 5), "lost"),
        "unknown": Mark(Stamp(1, 5)),
    }
    found = compare("replica", wanted, held)
    assert [(one.key, one.problem) for one in found] == [
        (name, name) for name in ("missing", "newer", "older", "other", "unknown")
    ]
    assert found[0] == Difference(key="missing", place="replica", problem="missing")
    assert compare("bucket", wanted, wanted) == []
