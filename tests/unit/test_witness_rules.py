"""When a silence means that a node is lost: whose turn it is to say so, and when to wait once more."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.core.model import Stamp
from pmoves_mesh.core.witness import (
    Recent,
    Spells,
    absence_max_s,
    announce_interval_s,
    answering_s,
    first_share,
    is_storm,
    rank,
    repeat_interval_s,
    silence_max_s,
)

NAMES = ["alpha", "beta", "gamma", "delta", "epsilon"]
NOW = Stamp(1, 1)
LATER = Stamp(1, 2)

labels = st.text("abc012", min_size=1, max_size=5)


# Whose turn it is


@given(names=st.sets(labels, min_size=1, max_size=20), about=labels)
def test_each_witness_has_a_turn_of_its_own_and_all_reckon_it_alike(names: set[str], about: str):
    witnesses = sorted(names - {about})
    turns = [rank(own, about, witnesses) for own in witnesses]
    assert sorted(turns) == list(range(len(witnesses)))
    assert turns == [rank(own, about, reversed(witnesses)) for own in witnesses]


@given(names=st.sets(labels, min_size=2, max_size=20), about=labels, gone=labels)
def test_a_witness_that_is_gone_changes_the_order_of_nobody_else(names: set[str], about: str, gone: str):
    before = sorted(names - {about, gone}, key=lambda own: rank(own, about, names))
    after = sorted(names - {about, gone}, key=lambda own: rank(own, about, names - {gone}))
    assert before == after


def test_a_node_that_only_just_came_has_its_turn_too():
    first = next(own for own in NAMES[1:] if rank(own, "alpha", NAMES) == 0)
    others = [name for name in NAMES if name != first]
    assert rank(first, "alpha", others) == 0


def test_the_work_is_spread_over_all_witnesses():
    nodes = [f"node-{number}" for number in range(40)]
    firsts = [own for about in nodes for own in nodes if own != about and rank(own, about, nodes) == 0]
    assert len(firsts) == 40
    assert max(firsts.count(own) for own in nodes) < 8


# When most of the mesh seems lost


@pytest.mark.parametrize(
    ("silent", "together", "storm"),
    [
        (0, 1, False),
        (1, 2, False),
        (2, 3, False),  # two hosts of three may well fail together
        (2, 2, False),
        (3, 4, True),
        (3, 5, True),
        (3, 6, False),  # half is not more than half
        (4, 7, True),
        (50, 101, False),
        (51, 101, True),
        (199, 200, True),
    ],
)
def test_more_than_half_of_the_mesh_and_three_nodes_at_least_are_a_storm(
    silent: int, together: int, storm: bool
):
    assert is_storm(silent, together) is storm


@given(own=labels, about=labels, names=st.lists(labels, max_size=30), most=st.integers(0, 5))
def test_who_counts_no_further_than_it_matters_finds_the_same(
    own: str, about: str, names: list[str], most: int
):
    assert rank(own, about, names, most) == min(most, rank(own, about, names))


# How long a silence may be


@pytest.mark.parametrize("ttl_s", [2, 3, 10, 300])
def test_a_process_may_stand_still_for_a_whole_lease_whenever_it_was_stopped(ttl_s: int):
    """At worst it was stopped just before a refresh, a third of the time after the latest one."""
    runs_out_s = ttl_s - ttl_s / 3
    assert runs_out_s + answering_s(ttl_s) > ttl_s


@pytest.mark.parametrize("ttl_s", [2, 3, 10, 300])
def test_after_a_restart_of_the_server_everybody_has_a_whole_lease_to_write_its_own(ttl_s: int):
    assert absence_max_s(ttl_s) > ttl_s + ttl_s / 3


@pytest.mark.parametrize(
    ("nodes", "interval_s"), [(0, 15.0), (1, 15.0), (2, 15.0), (4, 30.0), (16, 60.0), (1024, 150.0)]
)
def test_announcements_become_rarer_as_the_mesh_grows(nodes: int, interval_s: float):
    assert announce_interval_s(15.0, nodes) == interval_s
    assert silence_max_s(15.0, nodes) == 3 * interval_s


@given(nodes=st.integers(0, 1_000_000), announce_s=st.floats(1, 3600))
def test_all_nodes_together_repeat_no_more_than_fifteen_announcements_in_each_pause(
    nodes: int, announce_s: float
):
    together = nodes * announce_s / repeat_interval_s(announce_s, nodes)
    assert together <= 15 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("nodes", "interval_s"), [(1, 15.0), (10, 49.8), (100, 100.0), (500, 500.0), (10_000, 10_000.0)]
)
def test_repetitions_become_rarer_still_in_a_large_mesh(nodes: int, interval_s: float):
    assert repeat_interval_s(15.0, nodes) == pytest.approx(interval_s, abs=0.1)


def test_those_who_announced_themselves_together_repeat_it_one_after_another():
    shares = sorted(first_share(f"node-{number}") for number in range(500))
    assert max(later - earlier for earlier, later in pairwise([0.0, *shares, 1.0])) < 0.03


# Spells


def test_a_spell_lasts_from_when_it_was_first_seen():
    spells = Spells()
    spells.see({"alpha": NOW}, 10.0)
    spells.see({"alpha": NOW, "beta": NOW}, 12.0)
    assert spells.lasting(13.0) == {"alpha": 3.0, "beta": 1.0}


def test_a_spell_ends_when_it_is_not_seen_any_more():
    spells = Spells()
    spells.see({"alpha": NOW, "beta": NOW}, 10.0)
    spells.see({"beta": NOW}, 12.0)
    spells.see({"alpha": NOW, "beta": NOW}, 14.0)
    assert spells.lasting(15.0) == {"alpha": 1.0, "beta": 5.0}


def test_whatever_a_node_says_begins_its_spell_anew():
    spells = Spells()
    spells.see({"alpha": NOW}, 10.0)
    spells.see({"alpha": LATER}, 12.0)
    assert spells.lasting(13.0) == {"alpha": 1.0}


def test_what_was_seen_before_an_outage_counts_no_more():
    spells = Spells()
    spells.see({"alpha": NOW}, 10.0)
    spells.clear()
    assert spells.lasting(13.0) == {}
    spells.see({"alpha": NOW}, 14.0)
    assert spells.lasting(15.0) == {"alpha": 1.0}


# What happened a short time ago


def test_what_happened_is_remembered_for_as_long_as_one_asks_back():
    recent = Recent(10)
    recent.note("alpha", 10.0)
    recent.note("beta", 12.0)
    assert recent.within(5.0, 13.0) == {"alpha", "beta"}
    assert recent.within(2.0, 13.0) == {"beta"}


def test_of_too_many_the_oldest_are_forgotten():
    recent = Recent(2)
    for number, name in enumerate(("alpha", "beta", "alpha", "gamma")):
        recent.note(name, float(number))
    assert recent.within(100.0, 4.0) == {"alpha", "gamma"}
