"""Three hosts whose embedded nats-servers keep the streams together: grown from one, each of them lost."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from clustered import (
    GROWN_S,
    NAMES,
    all_know,
    all_know_early,
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
    stream,
    told,
)
from hosts import Host, wait_until

pytestmark = pytest.mark.timeout(300)

SERVICES = 20
MOMENTS = (("streams set aside",), ("stream carried", "KV_MESH_REGISTRY"), ("stream carried", "MESH_EVENTS"))
"""What a line of the first host says when it is killed: before anything is carried, in between, and after."""


def status(host: Host) -> dict[str, Any]:
    return dict(host.json("status")["registry"])


def test_a_mesh_that_began_alone_grows_to_three_and_any_host_may_be_lost(
    real_hosts: Callable[..., list[Host]],
):
    hosts = begun_alone(real_hosts, SERVICES)
    alpha, beta, gamma = hosts
    beta.up()
    before = history(alpha)
    grow(hosts)
    after = history(beta)
    assert missing(before, after) == []
    all_know_early(hosts, SERVICES)
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
    for lost in (beta, gamma):
        kill(lost)
    register(alpha, "alone-for-a-while")
    all_know([alpha], "alone-for-a-while")
    all_know([alpha], "early-0")
    assert {one["name"] for one in alpha.json("nodes")["nodes"]} >= set(NAMES)
    for back in (beta, gamma):
        start([back])
        all_know([back], "alone-for-a-while")


def logs_in(host: Host, at: Host) -> bool:
    assert at.place is not None
    return bool(stream(host, NATS_URL=f"tls://{at.place.address}:4222"))


def test_who_joins_later_logs_in_at_any_of_the_three_and_who_is_revoked_at_none(
    real_hosts: Callable[..., list[Host]],
):
    hosts = begun_alone(real_hosts, 1, "delta")
    *members, delta = hosts
    grow(hosts)
    join(delta, members[0])
    delta.up()
    told_of = (delta.directory / "env.shared").read_text()
    for member in members:
        assert member.place is not None
        assert f"tls://{member.place.address}:4222" in told_of
        wait_until(lambda at=member: logs_in(delta, at), "the new node logs in")
    kill(members[0])
    register(delta, "at-delta")
    all_know(members[1:], "at-delta")
    start([members[0]])
    done = members[0].run("certs", "revoke", "node/delta", "--reason", "stolen")
    assert done.returncode == 0, done.stderr
    for member in members:
        wait_until(lambda at=member: not logs_in(delta, at), "the revoked node is shut out", 20)
        assert is_whole(member)


def has_said(host: Host, words: tuple[str, ...], since: int) -> bool:
    said = any(all(word in line for word in words) for line in host.log[since:].splitlines())
    return said and host.pid is not None


def test_nothing_is_lost_where_the_first_host_dies_while_the_mesh_grows(
    real_hosts: Callable[..., list[Host]],
):
    hosts = begun_alone(real_hosts, SERVICES)
    first = hosts[0]
    before = history(first)
    set_cluster(hosts)
    for host in hosts:
        host.run("down")
    begun = len(first.log)
    with ThreadPoolExecutor() as pool:
        others = pool.submit(start, hosts[1:])
        for moment in MOMENTS:
            starting = pool.submit(first.run, "up")
            # Who was killed late has said the next thing already, and does not say it again.
            wait_until(partial(has_said, first, moment, begun), f"{moment}\n{told(hosts)}", GROWN_S)
            kill(first)
            starting.result()
        start([first])
        others.result()
    wait_until(lambda: is_whole(first), f"all is on three servers\n{told(hosts)}", GROWN_S)
    assert missing(before, history(hosts[1])) == []
    all_know_early(hosts, SERVICES)
    wait_until(lambda: not (first.directory / "data" / "growing").exists(), "what was set aside is gone")
    for host in hosts:
        assert set(status(host)["repairs"].values()) == {0}, told([host])
