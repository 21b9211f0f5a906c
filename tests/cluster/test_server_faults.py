"""What the mesh does while some of its nats-servers are dead or out of reach."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest
from agents import eventually, note
from driver import Account, lost, registering
from hosted import HostedAgent, HostedMesh

CLIENTS = 4
SERVICES_MAX = 1_500
WITHOUT_WRITES_S = 30.0


def services(agent: HostedAgent) -> Iterator[tuple[str, int]]:
    """Yields services until nobody wants more; a node's manifest has room for all of them."""
    for number in itertools.count():
        yield f"{agent.node}-{number % SERVICES_MAX}", 1 + number


def written_again(account: Account, since: float) -> bool:
    """Whether writes reach the stream as before."""
    return sum(moment > since for moment in tuple(account.moments)) > 50


def check_nothing_lost(mesh: HostedMesh, account: Account) -> None:
    assert set(account.statuses) <= {200, 202}, account.statuses
    for agent in mesh.agents.values():
        assert lost(account, agent) == set()
        assert "alive" in set(agent.nodes().values()) == {"alive"}
        assert not agent.logged("the stream was made anew or restored; this replica begins anew")


@pytest.mark.timeout(180)
def test_the_leader_killed_stops_writes_for_seconds_and_loses_nothing(mesh: HostedMesh):
    agents = mesh.begun("alpha", "beta")
    with registering(agents, services, CLIENTS) as account:
        eventually(lambda: written_again(account, 0), "registrations reach the stream")
        leader = mesh.cluster.led()
        killed = time.perf_counter()
        leader.kill()
        eventually(lambda: written_again(account, killed), "writes go on", WITHOUT_WRITES_S)
    note(f"kill -9 of the leader: {account.silence_s(killed):.1f} s without writes")
    note(f"agreed after {mesh.agreed():.1f} s")
    check_nothing_lost(mesh, account)
    leader.start()
    mesh.cluster.whole()
