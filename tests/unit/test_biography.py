"""What the events of a stream mean for a service, one story a test."""

from __future__ import annotations

from itertools import count
from typing import Any

from pmoves_mesh.cli.biography import Biography

SERVICE = "whisper"


class Story:
    """Events in their order, and what they mean."""

    def __init__(self) -> None:
        self._biography = Biography(SERVICE)
        self._positions = count(1)
        self.happened: list[tuple[str, str, str]] = []

    def tell(self, kind: str, data: Any, node: str = "alpha", **fields: Any) -> Story:
        position = next(self._positions)
        event = {
            "position": position,
            "type": kind,
            "node": node,
            "service": SERVICE,
            "id": "1",
            "data": data,
        }
        stamp = {"incarnation": 1, "revision": position, "refused": "", "verified": True}
        for one in self._biography.take({**event, **stamp, **fields}):
            self.happened.append((one.what, f"{one.node}/{one.id}", one.detail))
        return self

    def state(self, kind: str, node: str = "alpha", **fields: Any) -> Story:
        record = {"name": SERVICE, "id": "1", "node": node, "host": "10.0.0.1", "port": 9000}
        around = {"capabilities": ["stt"], "health_status": "unknown", "maintenance": False}
        return self.tell(kind, {"data": {**record, **around, **fields}}, node)

    def lose(self, node: str = "alpha") -> Story:
        return self.tell("mesh.node.lost.v1", {"witness": "beta", "reason": "lease"}, node, service="", id="")

    def announce(self, *ids: str, node: str = "alpha") -> Story:
        lines = [{"name": SERVICE, "id": each, "revision": 1} for each in ids]
        return self.tell("mesh.node.announce.v1", {"instances": lines}, node, service="", id="")

    @property
    def words(self) -> list[str]:
        return [what for what, _, _ in self.happened]


def test_a_service_comes_is_well_and_goes():
    story = Story().state("registered").state("health", health_status="healthy", health_output="200")
    story.tell("deregistered", {"data": {}}).tell("unregistered", {"data": {}})
    assert story.happened == [
        ("registered", "alpha/1", "at 10.0.0.1:9000, can stt"),
        ("health", "alpha/1", "unknown -> healthy: 200"),
        ("deregistered", "alpha/1", ""),
    ]


def test_it_is_hidden_changed_and_at_another_address():
    story = Story().state("registered").state("maintenance", maintenance=True, maintenance_reason="disk")
    story.state("updated", port=9001, metadata={"a": 1}).state("registered", port=9001, metadata={"a": 1})
    assert story.happened[1:] == [
        ("maintenance", "alpha/1", "on: disk"),
        ("moved", "alpha/1", "10.0.0.1:9000 -> 10.0.0.1:9001"),
        ("maintenance", "alpha/1", "off"),
        ("updated", "alpha/1", "metadata"),
        ("registered", "alpha/1", "again, and nothing is different"),
    ]


def test_its_node_is_lost_and_comes_back():
    story = Story().state("registered").lose().lose().announce("1").announce("1")
    assert story.happened[1:] == [
        ("lost", "alpha/1", "its node is lost, says beta: lease"),
        ("back", "alpha/1", "its node was lost"),
    ]


def test_it_moves_to_another_node_when_its_own_is_lost():
    story = Story().state("registered").lose().state("registered", node="beta", host="10.0.0.2")
    assert story.happened[-1] == ("moved", "beta/1", "from alpha to 10.0.0.2:9000 on beta")


def test_a_second_copy_elsewhere_is_no_move():
    assert Story().state("registered").state("registered", node="beta").words == ["registered"] * 2


def test_it_expires_and_is_taken_back_by_a_node_that_lists_it_still():
    story = Story().state("registered").lose().tell("expired", {"witness": "beta"}).announce("1")
    assert story.words == ["registered", "lost", "expired", "back"]


def test_a_node_that_does_not_list_it_any_more_has_it_no_longer():
    story = Story().state("registered").announce("2")
    assert story.happened[1:] == [("gone", "alpha/1", "its node does not list it any more")]


def test_an_announcement_without_a_list_says_nothing_of_it():
    story = Story().state("registered").tell("mesh.node.announce.v1", {"instances": None}, service="", id="")
    assert story.words == ["registered"]


def test_an_operator_evicts_it_and_takes_that_back():
    story = Story().state("registered").tell("evicted", {"operator": "ada", "reason": "leak"}, id="")
    story.tell("evicted", {"operator": "ada", "lifted": True}, id="").state("registered")
    assert story.happened[1:] == [
        ("evicted", "alpha/", "by ada: leak"),
        ("eviction lifted", "alpha/", "by ada"),
        ("registered", "alpha/1", "at 10.0.0.1:9000, can stt"),
    ]


def test_an_event_that_nobody_believed_changes_nothing_and_is_told():
    story = Story().state("registered")
    story.tell("deregistered", {"data": {}}, refused="bad signature", verified=False).lose()
    assert story.words == ["registered", "refused", "lost"]


def test_what_was_before_the_stream_begins_is_not_made_up():
    story = Story().state("health", health_status="healthy")
    assert story.happened == [("health", "alpha/1", "healthy")]


def test_whatever_an_event_holds_it_is_no_error():
    story = Story()
    for kind in (
        "registered",
        "health",
        "deregistered",
        "expired",
        "evicted",
        "mesh.node.announce.v1",
        "odd",
    ):
        for data in (None, [], {}, {"data": None}, {"data": {}}, {"instances": [1, {}]}):
            story.tell(kind, data)
