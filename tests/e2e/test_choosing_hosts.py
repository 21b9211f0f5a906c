"""Hosts of a secured mesh: each finds out how loaded the other is, and how far away, with a node's rights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hosts import Host, wait_until
from joined import OPEN, joined, knows, token_of


@pytest.fixture
def hosts(real_hosts: Callable[..., list[Host]]) -> list[Host]:
    """A main host with the CA and the nats-server, and one that joined it; both have the same service."""
    main, jetson = real_hosts("main", "jetson")
    main.settings.update(OPEN)
    main.up()
    joined(jetson, token_of(main, "--node", "jetson"))
    jetson.up()
    for host in (main, jetson):
        done = host.run("register", "whisper", "--port", "9000", "--capability", "stt")
        assert done.returncode == 0, done.stderr
        wait_until(lambda host=host: knows(host, "whisper"), "it is registered")
    return [main, jetson]


def test_each_host_knows_the_load_of_the_other_and_the_way_to_it(hosts: list[Host]):
    def found(host: Host, prefer: str, field: str) -> dict[str, Any]:
        services = host.json("discover", "stt", "--prefer", prefer)["services"]
        return {one["node"]: one[field] for one in services if one[field] is not None}

    for host in hosts:
        wait_until(
            lambda host=host: found(host, "least_loaded", "load").keys() == {"main", "jetson"},
            "both loads are known",
        )
        wait_until(
            lambda host=host: found(host, "nearest", "round_trip_ms").keys() == {"main", "jetson"},
            "both ways are known",
        )
        loads = found(host, "least_loaded", "load")
        assert all(0 < load["memory"] <= 1 and not load["stale"] for load in loads.values())
