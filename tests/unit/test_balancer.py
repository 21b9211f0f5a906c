"""The balancer: whom a call goes to, by health, place, weight, load and what failed."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sdk_support import StandingClock, shown

from pmoves_mesh.errors import NothingKnownError, ServiceNotFound
from pmoves_mesh.sdk.balancer import SHUNNED_MAX_S, SHUNNED_MIN_S, Balancer
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.instance import Instance

DRAWS = 4000


class Chooser:
    """A balancer over some instances, with a fixed seed."""

    def __init__(self, *instances: Instance, node: str = "") -> None:
        self.clock = StandingClock()
        self.directory = Directory()
        self.directory.node = node
        self.directory.replace(instances, 1)
        self.balancer = Balancer(self.directory, self.clock, random.Random(1).random)

    def ids(self, count: int = DRAWS) -> Counter[str]:
        """Returns how often each instance is chosen."""
        return Counter(self.balancer.choose("rag").instance.id for _ in range(count))


def copies(count: int, **fields: Any) -> list[Instance]:
    return [shown(id=str(number), **fields) for number in range(count)]


def test_equals_are_chosen_equally_often():
    chosen = Chooser(*copies(4)).ids()
    assert len(chosen) == 4
    assert all(DRAWS / 4 * 0.85 < count < DRAWS / 4 * 1.15 for count in chosen.values())


def test_an_instance_of_twice_the_weight_is_chosen_twice_as_often():
    chosen = Chooser(shown(id="light"), shown(id="heavy", metadata={"weight": 2})).ids()
    assert 1.8 < chosen["heavy"] / chosen["light"] < 2.2


def test_an_instance_without_weight_is_never_chosen():
    assert Chooser(shown(id="drained", metadata={"weight": 0}), shown(id="other")).ids().keys() == {"other"}
    with pytest.raises(ServiceNotFound):
        Chooser(shown(metadata={"weight": 0})).ids()


def test_the_own_node_comes_first_and_health_before_that():
    near, far = shown(id="near", node="alpha"), shown(id="far", node="beta")
    assert Chooser(near, far, node="alpha").ids().keys() == {"near"}
    unsure = shown(id="near", node="alpha", health_status="unknown")
    assert Chooser(unsure, far, node="alpha").ids().keys() == {"far"}
    sick = shown(id="near", node="alpha", health_status="unhealthy")
    assert Chooser(sick, node="alpha").ids().keys() == {"near"}


def test_an_instance_without_an_endpoint_is_not_chosen_nor_one_that_is_hidden_or_lost():
    with pytest.raises(ServiceNotFound):
        Chooser(
            shown(id="a", port=0), shown(id="b", maintenance=True), shown(id="c", node_status="left")
        ).ids()


def test_a_mesh_that_was_not_seen_yet_proves_nothing():
    with pytest.raises(NothingKnownError):
        Balancer(Directory(), StandingClock(), random.random).choose("rag")


def test_of_two_the_one_with_less_under_way_is_taken():
    chooser = Chooser(*copies(2))
    busy = chooser.balancer.begin("rag")
    chosen = chooser.ids()
    assert chosen[busy.instance.id] < DRAWS / 3
    chooser.balancer.end(busy, failed=False)
    assert chooser.ids()[busy.instance.id] > DRAWS / 3


def test_calls_that_are_under_way_spread_nearly_evenly():
    chooser = Chooser(*copies(10))
    for _ in range(1000):
        chooser.balancer.begin("rag")
    active = [chooser.balancer._seats[one.key].active for one in chooser.directory]
    assert max(active) - min(active) <= 4


def test_what_just_failed_is_shunned_twice_as_long_each_time_and_half_a_minute_at_most():
    chooser = Chooser(*copies(2))
    seat = chooser.balancer.choose("rag")
    for doubling in range(8):
        chooser.balancer.blame(seat.instance)
        expected_s = min(SHUNNED_MIN_S * 2**doubling, SHUNNED_MAX_S)
        assert seat.instance.id not in chooser.ids(200)
        chooser.clock.now_s += expected_s - 0.01
        assert seat.instance.id not in chooser.ids(200)
        chooser.clock.now_s += 0.02
        assert seat.instance.id in chooser.ids(200)


def test_a_call_that_went_well_forgives_what_failed_before():
    chooser = Chooser(shown())
    chooser.balancer.end(chooser.balancer.begin("rag"), failed=True)
    chooser.balancer.end(chooser.balancer.begin("rag"), failed=False)
    seat = chooser.balancer.begin("rag")
    chooser.balancer.end(seat, failed=True)
    assert seat.shunned_until_s == chooser.clock.now_s + SHUNNED_MIN_S


def test_the_next_best_serve_while_the_best_are_shunned():
    near, far = shown(id="near", node="alpha"), shown(id="far", node="beta")
    chooser = Chooser(near, far, node="alpha")
    chooser.ids(1)
    chooser.balancer.blame(near)
    assert chooser.ids().keys() == {"far"}
    chooser.balancer.blame(far)
    chooser.balancer.blame(far)
    assert chooser.ids().keys() == {"near"}, "the one that is shunned the shortest"


def test_a_shunned_instance_stays_shunned_when_it_changes_and_is_forgotten_when_it_goes():
    one, other = copies(2)
    chooser = Chooser(one, other)
    with chooser.directory.listened(chooser.balancer.notice):
        chooser.ids(1)
        chooser.balancer.blame(one)
        chooser.directory.put(shown(id=one.id, capabilities=("new",)), 2)
        assert chooser.ids().keys() == {other.id}
        chooser.directory.drop(one.key, 3)
        chooser.directory.put(one, 4)
        assert chooser.ids().keys() == {one.id, other.id}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["healthy", "unknown", "unhealthy"]),
            st.sampled_from(["alpha", "beta"]),
            st.floats(0.1, 100),
            st.booleans(),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_whatever_there_is_the_choice_is_of_the_best_that_is_not_shunned(rows: list[tuple[Any, ...]]):
    instances = [
        shown(id=str(number), node=node, health_status=health, metadata={"weight": weight})
        for number, (health, node, weight, _) in enumerate(rows)
    ]
    chooser = Chooser(*instances, node="alpha")
    chooser.ids(1)
    free = []
    for one, (*_, failed) in zip(instances, rows, strict=True):
        if failed:
            chooser.balancer.blame(one)
        else:
            free.append(one)
    best = min(((one.rank, one.node != "alpha") for one in free or instances), default=None)
    for _ in range(20):
        chosen = chooser.balancer.choose("rag").instance
        assert not free or (chosen.rank, chosen.node != "alpha") == best
        assert not free or chosen in free


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(["failed", "went well"]), st.integers(0, 3)),
            st.tuples(st.just("time passes"), st.integers(0, 40)),
        ),
        max_size=20,
    )
)
def test_whoever_is_shunned_now_is_left_out_whatever_was_chosen_before(steps: list[tuple[str, int]]):
    chooser = Chooser(*copies(4))
    chooser.ids(1)
    seats = {seat.instance.id: seat for seat in chooser.balancer._pools["rag"].groups[0].seats}
    for what, number in steps:
        if what == "time passes":
            chooser.clock.now_s += number / 10
        else:
            seat = seats[f"{number}"]
            seat.active += 1
            chooser.balancer.end(seat, failed=what == "failed")
        now_s = chooser.clock.monotonic_s()
        free = {name for name, seat in seats.items() if seat.shunned_until_s <= now_s}
        shortest = min(seats.values(), key=lambda seat: seat.shunned_until_s).instance.id
        assert chooser.ids(30).keys() <= (free or {shortest})
