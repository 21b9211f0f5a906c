"""A host at the edge of the network: cut off, and on a bad cable."""

from __future__ import annotations

import time

import pytest
from agents import eventually, note
from cables import Fault, degraded
from driver import lost, numbered, registering
from hosted import HostedMesh

pytestmark = pytest.mark.usefixtures("hosts")

BAD_CABLE = Fault(delay_ms=200, loss=0.05)
ON_THE_BAD_CABLE = 200
ARRIVED_S = 60.0
NOTICED_S = 20.0


@pytest.mark.timeout(180)
def test_a_host_that_is_cut_off_answers_and_registers_and_brings_it_all_back(mesh: HostedMesh):
    hub, edge = mesh.begun("hub", "edge")
    edge.register("of-the-edge", port=1)
    hub.register("of-the-hub", port=1)
    mesh.agreed()
    assert edge.place.host is not None
    edge.place.host.cut()
    eventually(lambda: not edge.is_ready(), "the edge notices that it is alone", NOTICED_S)
    assert {"of-the-edge", "of-the-hub"} <= set(edge.names())
    for number in range(20):
        assert edge.register(f"edge-{number}", port=1).status == 202
        assert hub.register(f"hub-{number}", port=1).status == 200
    assert edge.delete("/api/services/of-the-edge").status in {200, 202}
    assert not edge.knows("of-the-edge")
    assert edge.knows("edge-19")
    assert not edge.knows("hub-19")
    assert not hub.knows("edge-19")
    edge.place.host.mend()
    note(f"the edge's cable back in: agreed after {mesh.agreed():.1f} s")
    expected = {"of-the-hub", *(f"{side}-{number}" for side in ("edge", "hub") for number in range(20))}
    for agent in (hub, edge):
        assert set(agent.names()) == expected
        assert agent.registry["gaps"] == 0
        eventually(lambda agent=agent: set(agent.nodes().values()) == {"alive"}, "both are alive")


@pytest.mark.timeout(180)
def test_a_host_that_loses_and_delays_what_it_sends_registers_all_the_same(mesh: HostedMesh):
    agents = hub, edge = mesh.begun("hub", "edge")
    assert edge.place.host is not None
    with degraded(edge.place.host, BAD_CABLE) as means:
        began = time.perf_counter()
        with registering(agents, lambda agent: numbered(agent, ON_THE_BAD_CABLE), clients=4) as account:
            for agent in agents:
                eventually(
                    lambda agent=agent: account.of(agent.node) == ON_THE_BAD_CABLE,
                    f"{agent.node} acknowledged all",
                    ARRIVED_S,
                )
        rate = 2 * ON_THE_BAD_CABLE / (time.perf_counter() - began)
        note(f"{BAD_CABLE.delay_ms} ms and {BAD_CABLE.loss:.0%} loss by {means}: {rate:.0f} registrations/s")
        note(f"agreed over the bad cable after {mesh.agreed():.1f} s")
        assert set(account.statuses) <= {200, 202}
        assert not lost(account, hub)
        assert not lost(account, edge)
        assert set(hub.nodes().values()) == {"alive"}
    assert len(hub.names()) == len(edge.names()) == 2 * ON_THE_BAD_CABLE
