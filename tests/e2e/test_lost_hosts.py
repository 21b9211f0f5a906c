"""Hosts on a network of their own, with leases of the usual time: cut off, killed, or shut down in order."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
from collections.abc import Callable

import pytest
from hosts import Host, wait_until
from joined import OPEN, joined, knows, token_of

from pmoves_mesh.clock import SystemClock

pytestmark = pytest.mark.timeout(240)

TTL_S = 10.0
LATE_S = 4.0
"""How much later than promised is still no failure of ours, on a machine that is busy."""


@pytest.fixture
def mesh(real_hosts: Callable[..., list[Host]]) -> list[Host]:
    """A main host with the server and the CA, and two that joined, each with a service."""
    main, jetson, orin = hosts = real_hosts("main", "jetson", "orin")
    main.settings.update(OPEN)
    main.up()
    for host in (jetson, orin):
        name = host.settings.pop("MESH_HOSTNAME")
        joined(host, token_of(main, "--node", name))
        host.up()
        done = host.run("register", f"of-{name}", "--port", "9000")
        assert done.returncode == 0, done.stderr
    for host in hosts:
        wait_until(lambda host=host: knows(host, "of-jetson") and knows(host, "of-orin"), "all know all")
    return hosts


def lost_at_ms(host: Host, node: str) -> list[int]:
    """Returns when a host learned that a node is lost, unix milliseconds, once for each time."""
    lines = [json.loads(line) for line in host.log.splitlines() if '"node lost"' in line]
    times = [dt.datetime.fromisoformat(line["timestamp"]) for line in lines if line["node"] == node]
    return [int(time.timestamp() * 1000) for time in times]


def gone_after_s(node: str, since_ms: int, *hosts: Host) -> float:
    """Waits until all these hosts know that a node is lost; returns how many seconds the last one took."""
    wait_until(lambda: all(lost_at_ms(host, node) for host in hosts), f"{node} is lost", TTL_S + 3 * LATE_S)
    return max(lost_at_ms(host, node)[0] for host in hosts) / 1000 - since_ms / 1000


def test_a_host_whose_cable_is_pulled_is_lost_when_its_lease_ends_and_returns_with_the_cable(
    mesh: list[Host],
):
    main, jetson, orin = mesh
    assert jetson.place is not None
    cut_ms = SystemClock().now_ms()
    jetson.place.cut()
    took_s = gone_after_s("jetson", cut_ms, main, orin)
    assert TTL_S * 2 / 3 - 1 < took_s < TTL_S + 1 + LATE_S
    assert not knows(main, "of-jetson")
    assert knows(main, "of-orin")
    assert lost_at_ms(jetson, "main") == lost_at_ms(jetson, "orin") == [], "a host alone declares nobody lost"
    jetson.place.mend()
    wait_until(lambda: knows(main, "of-jetson") and knows(orin, "of-jetson"), "it is back", 30)
    assert lost_at_ms(main, "orin") == lost_at_ms(orin, "main") == []


def test_a_killed_agent_on_a_host_that_stays_up_is_lost_within_two_seconds(mesh: list[Host]):
    main, jetson, orin = mesh
    pid = jetson.pid
    assert pid is not None
    killed_ms = SystemClock().now_ms()
    os.kill(pid, signal.SIGKILL)
    assert gone_after_s("jetson", killed_ms, main, orin) < 2 + LATE_S
    assert not knows(orin, "of-jetson")
    jetson.up()
    wait_until(lambda: knows(main, "of-jetson"), "it is back when it runs again")
    assert len(lost_at_ms(main, "jetson")) == 1


def test_the_agent_of_the_main_host_is_missed_as_soon_as_any_other(mesh: list[Host]):
    main, jetson, orin = mesh
    pid = main.pid
    assert pid is not None
    killed_ms = SystemClock().now_ms()
    os.kill(pid, signal.SIGKILL)
    assert gone_after_s("main", killed_ms, jetson, orin) < 2 + LATE_S
    main.up()


def test_a_host_that_is_shut_down_in_order_leaves_and_is_not_lost(mesh: list[Host]):
    main, jetson, orin = mesh
    jetson.run("down")
    assert not knows(main, "of-jetson")
    assert not knows(orin, "of-jetson")
    assert lost_at_ms(main, "jetson") == lost_at_ms(orin, "jetson") == []
