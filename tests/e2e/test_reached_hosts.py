"""Hosts on a network of their own: whether the address that each announces leads to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hosts import Host, wait_until
from joined import OPEN, joined, token_of

pytestmark = pytest.mark.timeout(120)


def registry_of(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = host.json("status")["registry"]
    return found


def begun(real_hosts: Callable[..., list[Host]], *names: str) -> list[Host]:
    """Returns hosts of one mesh, of which the first keeps the CA; none but that one is up."""
    hosts = real_hosts(*names, ANNOUNCE_SEC="1", MESH_NETWORK_MODE="nats", **OPEN)
    hosts[0].up()
    for host in hosts[1:]:
        joined(host, token_of(hosts[0], "--node", host.settings.pop("MESH_HOSTNAME")))
        del host.settings["PMOVES_NATS_HOST"]
    return hosts


def test_hosts_that_find_their_address_by_themselves_are_reached_by_the_others(
    real_hosts: Callable[..., list[Host]],
):
    main, jetson = begun(real_hosts, "main", "jetson")
    jetson.up()
    wait_until(lambda: registry_of(jetson)["reached_from"] == {"main": ""}, "main reaches jetson", 20)
    wait_until(lambda: registry_of(main)["reached_from"] == {"jetson": ""}, "jetson reaches main", 20)
    assert jetson.place is not None
    (node,) = (one for one in main.json("nodes")["nodes"] if one["name"] == "jetson")
    assert node["host"] == jetson.place.address
    assert node["addresses"] == {"nats": jetson.place.address}


def test_a_host_that_announces_the_address_of_another_is_told_who_answers_there(
    real_hosts: Callable[..., list[Host]],
):
    main, jetson, orin = begun(real_hosts, "main", "jetson", "orin")
    assert main.place is not None
    jetson.up()
    orin.settings["PMOVES_ADVERTISE_HOST"] = main.place.address
    orin.up()
    wanted = f"node jetson does not reach this node at {main.place.address} (node main answers there)"
    wait_until(lambda: any(wanted in line for line in registry_of(orin)["warnings"]), "orin is told", 20)
    done = orin.run("doctor")
    assert wanted in done.stdout
