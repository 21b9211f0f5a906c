"""A cluster of embedded servers through what befalls its hosts: begun at once, a new CA, a host replaced."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from clustered import (
    GROWN_S,
    NAMES,
    all_know,
    begun_alone,
    grow,
    history,
    is_whole,
    join,
    kill,
    missing,
    register,
    set_cluster,
    start,
    told,
)
from hosts import Host, wait_until

pytestmark = pytest.mark.timeout(240)


def test_a_mesh_that_began_on_loopback_becomes_a_cluster_while_the_others_join(
    real_hosts: Callable[..., list[Host]],
):
    hosts = real_hosts(*NAMES)
    first, *others = hosts
    first.up()
    register(first, "early")
    before = history(first)
    first.run("down")
    set_cluster(hosts)
    with ThreadPoolExecutor() as pool:
        starting = pool.submit(first.up)
        wait_until(lambda: "agent started" in first.log.rpartition("agent stopped")[2], "it serves", GROWN_S)
        for host in others:
            join(host, first)
        start(others)
        starting.result()
    wait_until(lambda: is_whole(first), f"all is on three servers\n{told(hosts)}", GROWN_S)
    assert missing(before, history(others[1])) == []
    all_know(hosts, "early")


def is_revoked(host: Host, node: str) -> bool:
    return host.run("certs", "revoke", node, "--reason", "lost").returncode == 0


def test_a_host_that_is_lost_for_good_is_replaced_and_a_new_ca_parts_nobody(
    real_hosts: Callable[..., list[Host]],
):
    hosts = begun_alone(real_hosts, 1)
    alpha, _, gamma = hosts
    grow(hosts)
    kill(gamma)
    shutil.rmtree(gamma.directory)
    gamma.directory.mkdir()
    wait_until(partial(is_revoked, alpha, "gamma"), "the other two have a leader", GROWN_S)
    join(gamma, alpha)
    start([gamma])
    wait_until(lambda: is_whole(alpha), f"all is on three again\n{told(hosts)}", GROWN_S)
    all_know([gamma], "early-0")
    rotated = alpha.run("certs", "rotate")
    assert rotated.returncode == 0, rotated.stderr
    for host in hosts:
        host.run("down")
    start(hosts)
    wait_until(lambda: is_whole(gamma), f"all is on three under the new CA\n{told(hosts)}", GROWN_S)
    register(gamma, "late")
    all_know(hosts, "late")
