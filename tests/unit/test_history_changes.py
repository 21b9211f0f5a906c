"""What differs between two moments, as readers are told."""

from __future__ import annotations

from typing import Any

import msgspec
from builders import Story, announced, deregistered, instance, left, line, registered

from pmoves_mesh.core import history


def told(before: Story, after: Story) -> Any:
    found = history.changes(history.shown(before.registry), history.shown(after.registry))
    return msgspec.json.decode(msgspec.json.encode(found))


def story(*events: Any) -> Story:
    made = Story()
    made.tell(*events)
    return made


def test_what_came_and_what_went_is_told_whole():
    found = told(story(registered(1)), story(registered(1), registered(2, instance("tts")), deregistered(3)))
    assert [one["name"] for one in found["added"]] == ["tts"]
    assert [one["name"] for one in found["removed"]] == ["rag"]
    assert found["changed"] == []


def test_what_is_not_the_same_is_told_before_and_after_with_its_fields():
    changed = instance(health_status="unhealthy", maintenance=True)
    (one,) = told(story(registered(1)), story(registered(1), registered(2, changed)))["changed"]
    assert one["fields"] == ["health_status", "maintenance"]
    assert (one["before"]["health_status"], one["after"]["health_status"]) == ("unknown", "unhealthy")


def test_what_moves_without_news_is_no_change():
    later = instance(last_seen="2026-01-02T00:00:00Z", health_output="503")
    before, after = story(registered(1)), Story()
    after.tell(registered(1), registered(2, later), time_ms=1_800_000_000_000)
    found = told(before, after)
    assert (found["added"], found["removed"], found["changed"]) == ([], [], [])
    assert found["nodes"] == {"added": [], "removed": [], "changed": []}


def test_nodes_are_compared_too():
    before = story(announced(1, [line(1)]))
    after = story(announced(1, [line(1)]), left(2), announced(1, node="beta"))
    nodes = told(before, after)["nodes"]
    assert [one["name"] for one in nodes["added"]] == ["beta"]
    assert [(one["after"]["name"], one["fields"]) for one in nodes["changed"]] == [("alpha", ["status"])]
    assert [one["name"] for one in told(after, before)["nodes"]["removed"]] == ["beta"]


def test_the_same_registry_twice_has_no_difference():
    one = story(registered(1))
    shown = history.shown(one.registry)
    assert history.changes(shown, shown)["changed"] == []


def test_a_place_in_the_stream_has_a_time():
    assert history.spot(7, 0) == history.Spot(position=7, time="")


def test_whoever_is_one_too_many_is_told_how_many_may_ask():
    error = history.HistoryBusyError("questions about the past", 4)
    assert str(error) == "at most 4 questions about the past at a time; ask again in a moment"
