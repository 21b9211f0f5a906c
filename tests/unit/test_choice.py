"""Choosing: of instances that are equally well, what the asker prefers decides."""

from __future__ import annotations

from typing import Any

import pytest
from builders import Story, announced, discovered, instance, lost, registered

from pmoves_mesh.core.load import Load, LoadView, Survey, burden, share
from pmoves_mesh.core.where import parse_where

NODES = ("alpha", "beta", "gamma")
GPU = {"gpu": [{"vendor": "nvidia", "memory_gb": 8.0}]}


@pytest.fixture
def story() -> Story:
    """One healthy instance on each of three nodes."""
    told = Story()
    for node in NODES:
        record = instance("rag", node, port=80, capabilities=("rag",), health_status="healthy")
        told.tell(announced(1, node=node, resources=GPU), registered(2, record))
    return told


def load(cpu: float = 0.0, memory: float = 0.0, gpu: float | None = None, *, stale: bool = False) -> LoadView:
    return LoadView(cpu=cpu, memory=memory, gpu=gpu, age_s=1.0, stale=stale)


def nodes_of(story: Story, **asked: Any) -> list[str]:
    return [entry.record.node for entry in discovered(story.registry, ("rag",), **asked)]


def test_the_own_node_is_preferred_where_nothing_else_is(story: Story):
    assert nodes_of(story, node="gamma") == ["gamma", "alpha", "beta"]
    assert nodes_of(story, node="gamma", prefer="local") == ["gamma", "alpha", "beta"]


def test_a_limit_leaves_the_best(story: Story):
    assert nodes_of(story, node="beta", limit=1) == ["beta"]
    assert nodes_of(story, node="beta", limit=1000) == ["beta", "alpha", "gamma"]


def test_the_least_loaded_comes_first_by_what_it_has_least_of(story: Story):
    loads = {"alpha": load(0.1, 0.9), "beta": load(0.5, 0.3), "gamma": load(0.3, 0.4)}
    assert nodes_of(story, prefer="least_loaded", survey=Survey(loads=loads)) == ["gamma", "beta", "alpha"]


def test_what_is_not_known_or_stale_comes_last(story: Story):
    loads = {"alpha": load(stale=True), "gamma": load(0.99, 0.99)}
    assert nodes_of(story, prefer="least_loaded", survey=Survey(loads=loads)) == ["gamma", "alpha", "beta"]
    ways = {"gamma": 300.0}
    assert nodes_of(story, prefer="nearest", survey=Survey(round_trips_ms=ways)) == ["gamma", "alpha", "beta"]


def test_of_nodes_that_are_as_good_as_idle_the_own_one_is_taken(story: Story):
    loads = {"alpha": load(0.01), "beta": load(0.02), "gamma": load(0.0)}
    assert nodes_of(story, node="beta", prefer="least_loaded", survey=Survey(loads=loads))[0] == "beta"


def test_where_a_gpu_is_asked_for_its_load_decides(story: Story):
    loads = {"alpha": load(0.1, 0.1, 0.9), "beta": load(0.8, 0.8, 0.2), "gamma": load(0.3, 0.3, 0.2)}
    survey = Survey(loads=loads)
    where = parse_where({"resources.gpu.memory_gb": {"gte": 8}})
    assert nodes_of(story, where=where, prefer="least_loaded", survey=survey) == ["gamma", "beta", "alpha"]
    assert nodes_of(story, prefer="least_loaded", survey=survey) == ["alpha", "gamma", "beta"]


def test_the_nearest_comes_first_and_fractions_of_a_millisecond_do_not_count(story: Story):
    ways = {"alpha": 12.0, "beta": 0.4, "gamma": 0.2}
    assert nodes_of(story, prefer="nearest", survey=Survey(round_trips_ms=ways)) == ["beta", "gamma", "alpha"]


def test_no_preference_outweighs_health(story: Story):
    story.tell(
        registered(3, instance("rag", "beta", port=80, capabilities=("rag",), health_status="unknown")),
        registered(3, instance("rag", "gamma", port=0, capabilities=("rag",), health_status="healthy")),
    )
    idle = Survey(loads={"alpha": load(1.0), "beta": load(), "gamma": load()})
    assert nodes_of(story, prefer="least_loaded", survey=idle) == ["alpha", "gamma", "beta"]


def test_a_condition_finds_no_node_that_is_gone(story: Story):
    story.tell(lost(2, "beta"))
    where = parse_where({"node": {"in": ["alpha", "beta"]}})
    assert nodes_of(story, where=where) == ["alpha"]


@pytest.mark.parametrize(
    ("used", "whole", "expected"),
    [(1, 4, 0.25), (0, 4, 0.0), (5, 4, 1.0), (-1, 4, 0.0), (1, 0, 0.0), (1, 3, 0.33)],
)
def test_a_share_is_never_below_nothing_or_above_all(used: float, whole: float, expected: float):
    assert share(used, whole) == expected


def test_a_gpu_that_does_not_tell_is_as_loaded_as_its_host():
    assert burden(Load(cpu=0.5, memory=0.2), gpu=True) == (0.5, 0.5)
