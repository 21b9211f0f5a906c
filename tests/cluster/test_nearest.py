"""Near and far hosts: the one whose packets take longer comes later, though its name comes first."""

from __future__ import annotations

import pytest
from agents import eventually, note
from cables import Fault, degraded
from hosted import HostedAgent, HostedMesh

pytestmark = pytest.mark.usefixtures("hosts")

FAR = Fault(delay_ms=40, loss=0.0)


def ways(agent: HostedAgent) -> list[tuple[str, float | None]]:
    """Returns the nodes in the order in which an agent prefers them, each with the way to it in ms."""
    found = agent.post("/api/discover", {"capabilities": ["stt"], "prefer": "nearest"}).body["services"]
    return [(one["node"], one["round_trip_ms"]) for one in found]


@pytest.mark.timeout(180)
def test_the_nearer_of_two_hosts_is_preferred(mesh: HostedMesh):
    asker, near, far = mesh.begun("asker", "near", "a-far-one")
    assert far.place.host is not None
    for agent in (near, far):
        agent.register("whisper", port=9000, capabilities=["stt"])
    mesh.agreed()
    local = asker.post("/api/discover", {"capabilities": ["stt"]}).body["services"]
    assert [one["node"] for one in local] == ["a-far-one", "near"]
    with degraded(far.place.host, FAR) as means:
        eventually(lambda: None not in dict(ways(asker)).values(), "both ways are measured")
        (first, first_ms), (second, second_ms) = ways(asker)
        note(f"{FAR.delay_ms} ms by {means}: {first} {first_ms} ms, {second} {second_ms} ms")
        assert (first, second) == ("near", "a-far-one")
        assert first_ms is not None
        assert second_ms is not None
        assert first_ms < FAR.delay_ms <= second_ms < 500
