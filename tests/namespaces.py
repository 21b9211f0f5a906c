"""Real hosts for tests: network namespaces on one bridge, each with an address of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Final

_NUMBERS: Final = count(1)


def problem() -> str:
    """Returns why no namespaces can be made here; empty if they can."""
    if shutil.which("ip") is None:
        return "no network namespaces: the program ip (iproute2) is missing"
    if os.geteuid() != 0:
        return "no network namespaces: only root may make them"
    name = f"mesh-try-{os.getpid()}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        return f"no network namespaces: {tried.stderr.strip()}"
    _ip("netns", "delete", name)
    return ""


@dataclass(frozen=True)
class Namespace:
    """One host on the network.

    Attributes:
        name: of the network namespace.
        address: its IPv4 address on the bridge that all hosts share.
    """

    name: str
    address: str

    @property
    def inside(self) -> tuple[str, ...]:
        """The words that run a program on this host."""
        return ("ip", "netns", "exec", self.name)

    @property
    def _port(self) -> str:
        return f"v{self.name.removeprefix('mesh-')}"

    def cut(self) -> None:
        """Takes the host's cable out."""
        _ip("-n", _hub(self), "link", "set", self._port, "down")

    def mend(self) -> None:
        """Puts the cable back."""
        _ip("-n", _hub(self), "link", "set", self._port, "up")


@contextmanager
def network(hosts: int) -> Iterator[tuple[Namespace, ...]]:
    """Makes a network of so many hosts, which reach one another and nothing else."""
    token = f"{os.getpid()}-{next(_NUMBERS)}"
    hub = f"mesh-{token}"
    made = tuple(Namespace(f"mesh-{token}-{index}", f"10.77.0.{index}") for index in range(1, hosts + 1))
    try:
        _ip("netns", "add", hub)
        _ip("-n", hub, "link", "add", "bridge", "type", "bridge")
        _ip("-n", hub, "link", "set", "bridge", "up")
        for host in made:
            _connect(hub, host)
        yield made
    finally:
        for name in (*(host.name for host in made), hub):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _connect(hub: str, host: Namespace) -> None:
    _ip("netns", "add", host.name)
    _ip("-n", host.name, "link", "set", "lo", "up")
    pair = ("type", "veth", "peer", "name", "eth0", "netns", host.name)
    _ip("-n", hub, "link", "add", host._port, *pair)
    _ip("-n", hub, "link", "set", host._port, "master", "bridge", "up")
    _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
    _ip("-n", host.name, "link", "set", "eth0", "up")
    _ip("-n", host.name, "route", "add", "default", "dev", "eth0")


def _hub(host: Namespace) -> str:
    return host.name.rpartition("-")[0]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
