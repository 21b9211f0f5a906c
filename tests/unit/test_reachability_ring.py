"""Which nodes try to reach which: two others, and rather on other hosts; whoever asks."""

from __future__ import annotations

import pytest

from pmoves_mesh.agent.liveness.reachability import Ring


def mesh_of(count: int) -> dict[str, str]:
    return {f"node-{number}": f"10.0.0.{number}" for number in range(count)}


@pytest.mark.parametrize("count", [2, 3, 10, 100])
def test_every_node_is_tried_by_two_others_or_by_all_there_are(count: int):
    hosts = mesh_of(count)
    for node in hosts:
        trying = Ring(hosts).tried_by(node)
        assert len(set(trying)) == min(2, count - 1)
        assert node not in trying


def test_no_node_has_to_try_more_than_two_where_each_is_on_a_host_of_its_own():
    hosts = mesh_of(50)
    tries = [name for node in hosts for name in Ring(hosts).tried_by(node)]
    assert {tries.count(name) for name in hosts} == {2}


def test_the_order_in_which_nodes_are_known_does_not_matter():
    hosts = mesh_of(20)
    assert Ring(hosts).tried_by("node-7") == Ring(dict(reversed(hosts.items()))).tried_by("node-7")


def test_a_node_on_the_same_host_tries_only_where_there_is_no_other():
    together = {"alpha": "10.0.0.1", "beta": "10.0.0.1"}
    assert Ring(together).tried_by("alpha") == ("beta",)
    for other in ("gamma", "delta", "epsilon"):
        assert Ring({**together, other: "10.0.0.2"}).tried_by("alpha")[0] == other


def test_a_node_that_is_alone_is_tried_by_nobody():
    assert Ring({"alpha": "10.0.0.1"}).tried_by("alpha") == ()


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 40])
@pytest.mark.parametrize("hosts_count", [1, 2, 7, 40])
def test_a_node_tries_those_whom_it_is_said_to_try(count: int, hosts_count: int):
    ring = Ring({f"node-{number}": f"10.0.0.{number % hosts_count}" for number in range(count)})
    for node in ring.hosts:
        assert set(ring.tries(node)) == {other for other in ring.hosts if node in ring.tried_by(other)}
    assert ring.tries("a stranger") == ()
