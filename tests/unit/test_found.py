"""What was found holds until something would be found otherwise, and no longer."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from builders import NOW_MS, Story, announced, evicted, expired, instance, lost, registered, revoked

from pmoves_mesh.core.choice import Choice
from pmoves_mesh.core.event import Event
from pmoves_mesh.core.registry import Registry
from pmoves_mesh.views.http import choosing, reads
from pmoves_mesh.views.http.facade import Facade
from pmoves_mesh.views.http.found import Found

RAG = instance("rag", "beta", "1", capabilities=("rag", "gpu"))
SECOND = instance("rag", "beta", "2", capabilities=("rag", "gpu"))
ELSEWHERE = instance("rag", "gamma", "1", capabilities=("rag", "gpu"))
OTHER = instance("tts", "beta", "1", capabilities=("tts",))


def told(*events: Event) -> Story:
    story = Story()
    story.tell(registered(1, RAG), registered(2, SECOND), registered(1, ELSEWHERE), *events)
    return story


def found_in(story: Story) -> list[Found]:
    """Returns what is found for a name, and for capabilities."""
    facade = Facade(
        replica=Mock(registry=story.registry), registrar=Mock(), node="alpha", describe=Mock(), observe=None
    )
    found = (
        reads.found_at_once(facade, "rag"),
        choosing.found_at_once(facade, Choice(capabilities=("gpu", "rag"))),
    )
    return [one for one in found if one is not None]


def test_it_holds_while_others_change():
    story = told()
    found = found_in(story)
    story.tell(registered(3, OTHER))
    assert all(one.holds() for one in found)
    story.tell(registered(1, instance("rag", "delta", capabilities=("rag",))))
    assert [one.holds() for one in found] == [False, True]  # the service has one more, the choice has not


@pytest.mark.parametrize(
    "event",
    [
        registered(3, SECOND),
        registered(1, instance("rag", "delta", capabilities=("rag", "gpu"))),
        announced(3, [], node="beta"),
        lost(2, "beta"),
        evicted("rag", "gamma"),
        expired(2, RAG),
    ],
    ids=["another record", "one more", "fewer", "a lost node", "an evicted one", "an expired one"],
)
def test_it_holds_no_more_when_others_would_be_found(event: Event):
    story = told()
    found = found_in(story)
    assert all(one.holds() for one in found)
    story.tell(event)
    assert not any(one.holds() for one in found)


def test_it_holds_no_more_when_a_certificate_is_revoked():
    story = told()
    found = found_in(story)
    story.tell(revoked(story.identity("gamma").fingerprint))
    assert not any(one.holds() for one in found)


def test_it_holds_no_more_when_a_lost_node_speaks_again_of_something_else():
    story = told(lost(2, "beta"))
    found = found_in(story)
    assert [one.count for one in found] == [1, 1]
    assert all(one.holds() for one in found)
    story.tell(announced(3, node="beta"))
    assert not any(one.holds() for one in found)
    assert [one.count for one in found_in(story)] == [3, 3]


def test_what_expired_of_a_living_node_is_found_once_that_speaks_again():
    story = told(expired(2, RAG))
    found = found_in(story)
    assert [one.count for one in found] == [2, 2]
    story.tell(announced(3, node="beta"))
    assert not any(one.holds() for one in found)
    assert [one.count for one in found_in(story)] == [3, 3]


def test_it_tells_when_a_node_was_seen_since_and_another_tag_for_it():
    story = told()
    found = found_in(story)
    before = [one.told(one.count) for one in found]
    assert not any(one.is_seen_since() for one in found)
    story.tell(registered(3, OTHER), time_ms=NOW_MS + 60_000)
    assert all(one.holds() and one.is_seen_since() for one in found)
    assert not any(one.is_seen_since() for one in found)
    for one, (parts, tag) in zip(found, before, strict=True):
        assert one.told(one.count).parts != parts
        assert one.told(one.count).tag != tag


def test_the_same_body_has_the_same_tag_on_every_host():
    story = told()
    here = found_in(story)
    story.registry, story.position = Registry(), 0
    story.tell(registered(1, RAG), registered(2, SECOND), registered(1, ELSEWHERE))
    there = found_in(story)
    for count in (1, 2, 3):
        assert [one.told(count) for one in here] == [one.told(count) for one in there]
    assert len({here[1].told(count).tag for count in (1, 2, 3)}) == 3
