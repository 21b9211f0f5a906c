"""Whoever begins with what matches and follows the differences always holds what a new reader would get."""

from __future__ import annotations

from typing import Final

from histories import NODES, SERVICES, World, fold, replayed, worlds
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.feed import Difference, Feed
from pmoves_mesh.core.model import InstanceKey
from pmoves_mesh.core.query import Filter, InstanceView, find, instance_view
from pmoves_mesh.core.registry import Registry

INVISIBLE: Final = ("last_seen", "revision", "position", "health_output")

filters = st.builds(
    Filter,
    name=st.sampled_from((None, *SERVICES)),
    node=st.sampled_from((None, *NODES)),
    capabilities=st.sampled_from(((), ("gpu",), ("gpu", "rag"))),
    healthy_only=st.booleans(),
)


class Follower:
    """A reader that was shown what matched once, and hears of differences from then on."""

    def __init__(self, registry: Registry, wanted: Filter) -> None:
        self.feed = Feed(registry, wanted)
        self.held = seen_by_a_new_reader(registry, wanted)

    def hear(self, registry: Registry, difference: Difference) -> None:
        if difference.entry is None:
            assert difference.kind == "removed"
            del self.held[difference.key]
            return
        view = visible(instance_view(registry, difference.entry))
        assert (difference.kind == "added") == (difference.key not in self.held)
        assert self.held.get(difference.key) != view, "a difference that nobody can see"
        self.held[difference.key] = view


def visible(view: InstanceView) -> dict[str, object]:
    return {name: getattr(view, name) for name in view.__struct_fields__ if name not in INVISIBLE}


def seen_by_a_new_reader(registry: Registry, wanted: Filter) -> dict[InstanceKey, dict[str, object]]:
    return {entry.key: visible(instance_view(registry, entry)) for entry in find(registry, wanted)}


@given(worlds(), filters, st.integers(0, 20))
def test_a_follower_holds_what_a_new_reader_would_get_after_every_change(
    world: World, wanted: Filter, begin: int
):
    registry = replayed(world.messages[:begin])
    follower = Follower(registry, wanted)
    for message in world.messages[begin:]:
        for change in fold(registry, [message]):
            for difference in follower.feed.update(registry, change.instances):
                assert follower.feed.concerns(difference.key)
                follower.hear(registry, difference)
        assert follower.held == seen_by_a_new_reader(registry, wanted)
        assert len(follower.feed) == len(follower.held)


@given(worlds(), worlds(), filters)
def test_a_follower_of_one_registry_becomes_one_of_another_by_comparing(
    before: World, after: World, wanted: Filter
):
    follower = Follower(replayed(before.messages), wanted)
    other = replayed(after.messages)
    for difference in follower.feed.compare(other):
        follower.hear(other, difference)
    assert follower.held == seen_by_a_new_reader(other, wanted)
    assert not list(follower.feed.compare(other))


@given(worlds())
def test_looking_twice_at_the_same_registry_shows_no_difference(world: World):
    registry = replayed(world.messages)
    follower = Follower(registry, Filter())
    keys = [InstanceKey(service, node, "1") for service in SERVICES for node in NODES]
    assert not list(follower.feed.update(registry, keys))
