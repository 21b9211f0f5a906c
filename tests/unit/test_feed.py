"""What a reader that follows the registry is told, and what moves without news."""

from __future__ import annotations

import pytest
from builders import Story, announced, deregistered, instance, left, line, registered

from pmoves_mesh.core.feed import Feed, NodeFeed
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.query import Filter
from pmoves_mesh.core.registry import Registry

KEY = instance().key


def begun(story: Story, **wanted: object) -> Feed:
    feed = Feed(Filter(**wanted))  # type: ignore[arg-type]
    list(feed.begin(story.registry))
    return feed


@pytest.mark.parametrize(
    ("changed", "kinds"),
    [
        ({"port": 9000}, ["changed"]),
        ({"metadata": {"of": 1}}, ["changed"]),
        ({"maintenance": True}, ["changed"]),
        ({"health_status": "healthy"}, ["changed"]),
        ({"health_output": "fine"}, []),
        ({"last_seen": "2030-01-01T00:00:00Z"}, []),
        ({}, []),
    ],
)
def test_only_what_a_reader_acts_on_is_a_difference(changed: dict[str, object], kinds: list[str]):
    story = Story()
    story.tell(registered(1))
    feed = begun(story)
    story.tell(registered(2, instance(**changed)))
    assert [one.kind for one in feed.update(story.registry, [KEY])] == kinds


def test_an_instance_comes_and_goes_with_its_match_and_with_itself():
    story = Story()
    story.tell(registered(1))
    feed = begun(story, healthy_only=True)
    assert len(feed) == 0
    told = []
    for event in (
        registered(2, instance(health_status="healthy")),
        registered(3, instance(health_status="unhealthy")),
        registered(4, instance(health_status="healthy")),
        left(5),
        deregistered(6),
    ):
        story.tell(event)
        told += [(one.kind, one.entry is None) for one in feed.update(story.registry, [KEY])]
        assert (feed.held(story.registry, KEY) is None) == (len(feed) == 0)
    assert told == [("added", False), ("removed", True), ("added", False), ("removed", True)]


@pytest.mark.parametrize(
    ("wanted", "concerned"),
    [
        ({}, True),
        ({"name": "rag"}, True),
        ({"name": "tts"}, False),
        ({"node": "alpha"}, True),
        ({"node": "beta"}, False),
    ],
)
def test_a_change_concerns_those_alone_whose_filter_may_show_it(wanted: dict[str, str], *, concerned: bool):
    assert Feed(Filter(**wanted)).concerns(InstanceKey("rag", "alpha", "1")) is concerned  # type: ignore[arg-type]


def test_nodes_are_news_when_they_say_something_else_of_themselves_or_hold_something_else():
    story = Story()
    story.tell(announced(1, []))
    feed = NodeFeed(story.registry)
    assert feed.told == 0
    for event, told in (
        (announced(2, []), 0),
        (announced(3, [], port=8100), 1),
        (registered(4), 2),
        (announced(5, [line(4)], port=8100), 2),
        (left(6), 3),
    ):
        story.tell(event)
        feed.update(story.registry, ["alpha"])
        assert feed.told == told


def test_another_registry_is_compared_node_by_node():
    story, other = Story(), Story()
    story.tell(announced(1, node="alpha"), announced(1, node="beta"))
    other.tell(announced(1, node="beta"), announced(1, node="gamma"))
    feed = NodeFeed(story.registry)
    feed.compare(other.registry)
    assert feed.told == 2
    feed.compare(other.registry)
    assert feed.told == 2
    feed.compare(Registry())
    assert feed.told == 4
