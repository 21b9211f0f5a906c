"""Three hosts whose embedded nats-servers keep the streams together: grown from one, each of them lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from clustered import (
    NAMES,
    all_know,
    begun_alone,
    grow,
    history,
    is_whole,
    kill,
    missing,
    register,
    start,
    told,
)
from hosts import Host, wait_until

pytestmark = pytest.mark.timeout(300)

EARLY = 20


def status(host: Host) -> dict[str, Any]:
    return dict(host.json("status")["registry"])


def test_a_mesh_that_began_alone_grows_to_three_and_any_host_may_be_lost(
    real_hosts: Callable[..., list[Host]],
):
    hosts = begun_alone(real_hosts, EARLY)
    alpha, beta, gamma = hosts
    beta.up()
    before = history(alpha)
    grow(hosts)
    after = history(beta)
    assert missing(before, after) == []
    for number in range(EARLY):
        all_know(hosts, f"early-{number}")
    for host in hosts:
        assert set(status(host)["repairs"].values()) == {0}, told([host])
        assert status(host)["gaps"] == 0
        assert not (host.directory / "data" / "growing").exists()
    for lost in hosts:
        held = history(gamma if lost is alpha else alpha)
        kill(lost)
        rest = [host for host in hosts if host is not lost]
        for host in rest:
            register(host, f"without-{lost.directory.name}-at-{host.directory.name}")
        for host in rest:
            all_know(rest, f"without-{lost.directory.name}-at-{host.directory.name}")
        start([lost])
        for host in rest:
            all_know([lost], f"without-{lost.directory.name}-at-{host.directory.name}")
        wait_until(lambda: is_whole(alpha), f"all is on three again\n{told(hosts)}", 60)
        assert missing(held, history(lost)) == []
    assert {one["name"] for one in alpha.json("nodes")["nodes"]} >= set(NAMES)
