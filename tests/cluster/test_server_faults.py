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
WITHOUT_WRITES_S = 30.0
GONE_ON_S = 60.0


def services(agent: HostedAgent) -> Iterator[tuple[str, int]]:
    """Yields services until nobody wants more."""
    for number in itertools.count(1):
        yield f"{agent.node}-{number}", number


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
    with registering(agents, services, CLIENTS, patient=True) as account:
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


@pytest.mark.timeout(180)
def test_with_two_of_three_servers_dead_answers_go_on_and_registrations_wait(mesh: HostedMesh):
    alpha, beta = mesh.begun("alpha", "beta")
    alpha.register("before", port=1)
    mesh.agreed()
    dead = mesh.cluster.members[:2]
    for member in dead:
        member.kill()
    taken = [alpha.register(f"during-{number}", port=1).status for number in range(5)]
    assert set(taken) == {202}
    assert alpha.knows("during-0")
    for agent in (alpha, beta):
        assert agent.knows("before")
        assert agent.get("/healthz").status == 200
        assert set(agent.nodes().values()) == {"alive"}
    assert not beta.knows("during-0")
    assert alpha.registry["outbox"] >= len(taken)
    dead[0].start()
    back = eventually(lambda: beta.knows("during-4"), "what waited has arrived", WITHOUT_WRITES_S)
    note(f"with two of three servers again: {back:.1f} s until what waited is on the other agent")
    note(f"agreed after {mesh.agreed():.1f} s")
    assert set(alpha.names()) == {"before", *(f"during-{number}" for number in range(5))}
    assert set(alpha.nodes().values()) == set(beta.nodes().values()) == {"alive"}


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("hosts")
def test_the_leader_out_of_reach_is_replaced_and_what_it_missed_is_brought_to_it(mesh: HostedMesh):
    agents = mesh.begun("alpha", "beta")
    with registering(agents, services, CLIENTS, patient=True) as account:
        eventually(lambda: written_again(account, 0), "registrations reach the stream")
        leader = mesh.cluster.led()
        others = mesh.cluster.followers()
        cut = time.perf_counter()
        assert leader.place.host is not None
        leader.place.host.cut()
        eventually(lambda: written_again(account, cut), "writes go on", WITHOUT_WRITES_S)
        mesh.cluster.led(among=others)
        leader.place.host.mend()
        mended = time.perf_counter()
        eventually(lambda: written_again(account, mended), "writes go on", WITHOUT_WRITES_S)
    note(f"the leader's cable taken out: {account.silence_s(cut):.1f} s without writes")
    note(f"agreed after {mesh.agreed():.1f} s")
    check_nothing_lost(mesh, account)
    mesh.cluster.whole()


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("hosts")
def test_agents_leave_a_server_that_is_cut_off_from_the_others(mesh: HostedMesh):
    alpha, beta = mesh.begun("alpha", "beta")
    lonely = next(member for member in mesh.cluster.members if member.url == alpha.server_url)
    with lonely.parted():
        assert alpha.register("of-alpha", port=1).status == 202
        took_s = eventually(lambda: beta.knows("of-alpha"), "alpha has gone on to another", GONE_ON_S)
        note(f"from a server that is cut off from the others to another: {took_s:.1f} s")
        assert alpha.server_url != lonely.url
        mesh.agreed()
    mesh.cluster.whole()
    mesh.agreed()
