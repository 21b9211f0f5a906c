"""A mesh that began on one host and grows to three, for end-to-end tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from hosts import Host, wait_until
from joined import OPEN, joined, knows, token_of

READER: Final = Path(__file__).with_name("stream_reader.py")
NAMES: Final = ("alpha", "beta", "gamma")
GROWN_S: Final = 60.0
EARLY: Final = "early"
ANNOUNCED: Final = "mesh.node.announce.v1"

Maker = Callable[..., list[Host]]


def begun_alone(real_hosts: Maker, services: int, *others: str) -> list[Host]:
    """Returns hosts whose mesh is on the first one's server, with so many services of that one."""
    hosts = real_hosts(*NAMES, *others, ANNOUNCE_SEC="2")
    first = hosts[0]
    first.settings.update(OPEN)
    first.up()
    for number in range(services):
        register(first, f"early-{number}", "--capability", EARLY)
    for host in hosts[1 : len(NAMES)]:
        join(host, first)
    return hosts


def join(host: Host, first: Host) -> None:
    joined(host, token_of(first, "--node", host.settings["MESH_HOSTNAME"]))


def cluster_setting(hosts: Iterable[Host]) -> str:
    return ",".join(
        f"{name}={host.place.address}" for name, host in zip(NAMES, hosts, strict=False) if host.place
    )


def grow(hosts: list[Host], within_s: float = GROWN_S) -> None:
    """Makes the servers of the first three hosts one, and returns when all is on all of them."""
    members = hosts[: len(NAMES)]
    set_cluster(hosts)
    for host in members:
        host.run("down")
    start(members)
    wait_until(lambda: is_whole(members[0]), f"all is on three servers\n{told(members)}", within_s)


def set_cluster(hosts: list[Host]) -> None:
    for host in hosts[: len(NAMES)]:
        host.settings |= {**OPEN, "PMOVES_NATS_CLUSTER": cluster_setting(hosts)}


def start(hosts: Iterable[Host]) -> None:
    """Starts agents side by side: none of them is ready before the second is."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda host: host.up(), hosts))


def told(hosts: Iterable[Host]) -> str:
    """Returns what each agent said last, for whoever reads why a test failed."""
    return "\n".join(f"-- {host.directory.name}\n{host.log[-3000:]}" for host in hosts)


def register(host: Host, service: str, *options: str) -> None:
    done = host.run("register", service, "--port", "9000", *options)
    assert done.returncode == 0, done.stderr


def stream(host: Host, **settings: str) -> dict[str, Any]:
    """Returns what the mesh's NATS holds, as a host sees it; nothing while it cannot be asked."""
    assert host.place is not None
    done = subprocess.run(
        [*host.place.inside, sys.executable, str(READER)],
        cwd=host.directory,
        env={**host.environment, **settings},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return dict(json.loads(done.stdout.splitlines()[-1])) if done.returncode == 0 else {}


def is_whole(host: Host) -> bool:
    """Whether each stream and bucket is on three servers, which hold all of it."""
    found = stream(host)
    return bool(found) and set(found["servers"].values()) == {len(NAMES)}


def history(host: Host) -> list[list[Any]]:
    """Returns position, subject and digest of each event."""
    found = stream(host)
    assert found, host.log[-3000:]
    return list(found["events"])


def missing(held: Iterable[list[Any]], events: list[list[Any]]) -> list[list[Any]]:
    """Returns what is not, or not at its position, among `events`; a repeated announcement may have ended."""
    found = {position: (subject, digest) for position, subject, digest in events}
    return [
        [position, subject, digest]
        for position, subject, digest in held
        if found.get(position) != (subject, digest) and not (position not in found and subject == ANNOUNCED)
    ]


def all_know(hosts: Iterable[Host], service: str) -> None:
    for host in hosts:
        wait_until(lambda host=host: knows(host, service), f"{host.directory.name} knows {service}", 20)


def all_know_early(hosts: Iterable[Host], count: int) -> None:
    """Returns when each host would send a client to each of the services that the first one began with."""
    early = {f"early-{number}" for number in range(count)}
    for host in hosts:
        wait_until(lambda host=host: early <= found(host, EARLY), f"{host.directory.name} knows {early}", 20)


def found(host: Host, capability: str) -> set[str]:
    """Returns the services that a host would send a client to; none while it cannot be asked."""
    done = host.run("discover", capability, "--json")
    return {one["name"] for one in json.loads(done.stdout)["services"]} if done.returncode == 0 else set()


def kill(host: Host) -> None:
    """Ends agent and nats-server as a power failure would."""
    host.kill()
    file = host.directory / "data" / "nats" / "nats-server.pid"
    if file.exists():
        os.kill(int(file.read_text()), signal.SIGKILL)
