"""`doctor` and `events tail` on a main host and on one that joined: each by its own rights."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hosts import Host, wait_until
from joined import OPEN, joined, token_of

TOLD = """
from pmoves_mesh import FileAdded, Mesh
with Mesh.connect_sync() as mesh:
    print(mesh.record(FileAdded(key="a.pdf")))
"""
TAIL = ("events", "tail", "ingest.>", "--json")


@pytest.fixture
def hosts(real_hosts: Callable[..., list[Host]]) -> list[Host]:
    main, jetson = real_hosts("main", "jetson")
    main.settings.update(OPEN)
    main.up()
    joined(jetson, token_of(main, "--node", "jetson"))
    jetson.up()
    wait_until(lambda: bool(main.json("nodes")["count"] == 2), "they know each other")
    return [main, jetson]


def complaints(host: Host) -> list[dict[str, Any]]:
    """Returns what doctor finds that is not well."""
    done = host.run("doctor", "--json")
    return [line for line in json.loads(done.stdout)["findings"] if line["severity"] != "ok"]


def tell(host: Host) -> str:
    """Runs a program on a host that tells an event, and returns its position."""
    assert host.place is not None
    done = subprocess.run(
        [*host.place.inside, sys.executable, "-c", TOLD],
        cwd=host.directory,
        env=host.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.timeout(120)
def test_doctor_finds_nothing_wrong_with_hosts_that_are_in_order_and_says_who_is_away(hosts: list[Host]):
    main, jetson = hosts
    wait_until(lambda: not [line for line in complaints(main) if line["check"] != "HTTP"], "all is well")
    # Whether a server that is another host's writes at once, only that host sees.
    assert {line["check"] for line in complaints(jetson)} <= {"durability", "HTTP"}
    main.run("down")
    found = {line["check"]: line for line in complaints(jetson) if line["severity"] == "alarm"}
    assert "10.77.0.1:4222: cannot be reached" in found["NATS"]["what"]
    jetson.run("down")
    assert {line["check"] for line in complaints(jetson) if line["severity"] == "alarm"} == {"agent", "NATS"}


@pytest.mark.timeout(120)
def test_nodes_of_a_secured_mesh_tell_and_read_what_applications_tell(hosts: list[Host]):
    assert [tell(host) for host in hosts] == ["1", "2"]
    for host in hosts:
        command = " ".join([*host.program, *TAIL[:2], "'ingest.>'", "--json", "--since", "1h"])
        done = subprocess.run(
            ["bash", "-c", f"{command} | head -2"],
            cwd=host.directory,
            env=host.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(one["position"], one["payload"]["source"]) for one in found] == [(1, "main"), (2, "jetson")]
    with (
        (hosts[1].directory / "heard").open("wb") as heard,
        subprocess.Popen(
            [*hosts[1].program, *TAIL], cwd=hosts[1].directory, env=hosts[1].environment, stdout=heard
        ) as tail,
    ):
        try:
            wait_until(lambda: bool(tell(hosts[0]) and _heard(hosts[1])), "what comes is heard too")
        finally:
            tail.kill()


def _heard(host: Host) -> str:
    return (host.directory / "heard").read_text()
