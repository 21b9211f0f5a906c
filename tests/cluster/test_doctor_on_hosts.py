"""`doctor` on hosts of their own, when one of them or one of the servers is cut off."""

from __future__ import annotations

import pytest
from agents import eventually
from doctor_support import Report, doctor
from hosted import HostedMesh


@pytest.mark.usefixtures("hosts")
@pytest.mark.timeout(120)
def test_a_host_that_is_cut_off_is_a_line_with_its_address(mesh: HostedMesh):
    # A lease that lasts, so that the others know its address as that of a node that lives.
    alpha, beta = mesh.agent("alpha"), mesh.agent("beta", PMOVES_LEASE_TTL_S="60")
    for agent in (alpha, beta):
        agent.start().ready()
    eventually(lambda: set(alpha.nodes()) == {"alpha", "beta"}, "alpha knows beta")
    assert [line["severity"] for line in doctor(alpha).of("peers")] == ["ok"]
    assert beta.place.host is not None
    beta.place.host.cut()
    found = doctor(alpha).complaint("peers", "alarm", f"node beta cannot be reached at {beta.place.address}")
    assert "firewall or tailnet policy" in found["remedy"]
    beta.place.host.mend()
    eventually(lambda: not doctor(alpha).of("peers")[0]["remedy"], "beta is reached again")


@pytest.mark.timeout(120)
def test_a_server_of_a_cluster_that_is_down_is_a_line_with_its_name(mesh: HostedMesh):
    (alpha,) = mesh.begun("alpha")
    away = mesh.cluster.followers()[0]
    away.kill()
    reports: list[Report] = []

    def complained() -> bool:
        reports.append(doctor(alpha))
        return "durability" in reports[-1].alarms

    eventually(complained, f"{away.name} is missed")
    found = reports[-1].complaint("durability", "alarm", f"server {away.name}, which keeps a copy of")
    assert "reach one another" in found["remedy"]
