"""A host of its own for a test: a folder in which the installed program runs, with ports of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from namespaces import Namespace
from ports import free_port

from pmoves_mesh.agent.pidfile import running_pid

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).with_name("pmoves-mesh")
SETTING_PREFIXES = ("PMOVES_", "SERVICE_", "NATS_", "MESH_", "NODE_", "ANNOUNCE_", "TAILSCALE_")
MAKE_PREFIXES = ("MAKE", "MFLAGS")
STOPPED_WITHIN_S = 10.0
OWN_NETWORK = {"MESH_NETWORK_MODE": "nats"}
"""Leaves the Tailscale of the machine alone on which the tests run."""


def clean_environment() -> dict[str, str]:
    """Returns this process's environment without any setting of the mesh, or trace of a make that runs it.

    Containers of other tests are left alone.
    """
    unwanted = SETTING_PREFIXES + MAKE_PREFIXES
    clean = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    return {**clean, "PMOVES_CONTAINERS": "off"}


def wait_until(condition: Callable[[], bool], what: str, within_s: float = STOPPED_WITHIN_S) -> None:
    """Returns when the condition holds; fails the test when it does not in time.

    It asks at most half of the time: whoever is waited for needs the processors too.
    """
    asked = time.perf_counter()
    deadline = asked + within_s
    while not condition():
        answered = time.perf_counter()
        if answered > deadline:
            pytest.fail(f"not within {within_s:g} s: {what}")
        time.sleep(max(0.02, answered - asked))
        asked = time.perf_counter()


def listens(port: int) -> bool:
    """Whether something on loopback takes connections on a port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@dataclass
class Host:
    """A host of its own, as far as the program can see.

    Attributes:
        program: the words that start the program.
        settings: environment beyond the cleaned one.
        place: its network namespace; None for this machine's own network.
    """

    directory: Path
    program: tuple[str, ...] = (str(PROGRAM),)
    http_port: int = field(default_factory=free_port)
    nats_port: int = field(default_factory=free_port)
    settings: dict[str, str] = field(default_factory=dict)
    place: Namespace | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def pid_path(self) -> Path:
        return self.directory / "data" / "agent.pid"

    @property
    def pid(self) -> int | None:
        return running_pid(self.pid_path)

    @property
    def environment(self) -> dict[str, str]:
        if self.place is not None:
            # Its ports are its own already.
            return {**clean_environment(), **OWN_NETWORK, **self.settings}
        own = {
            **OWN_NETWORK,
            "MESH_HOSTNAME": "alpha",
            "SERVICE_REGISTRY_PORT": str(self.http_port),
            "PMOVES_NATS_PORT": str(self.nats_port),
            "PMOVES_DNS_PORT": "0",
            "PMOVES_LEAF_PORT": "0",
        }
        return {**clean_environment(), **own, **self.settings}

    def run(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Runs one command to its end."""
        return subprocess.run(
            [*self.program, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def up(self) -> str:
        """Starts the agent and returns what it printed; fails the test when it does not start."""
        done = self.run("up")
        assert done.returncode == 0, done.stderr + self.log
        return done.stdout

    def json(self, *arguments: str) -> Any:
        """Returns what a command prints with --json."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    @property
    def log(self) -> str:
        path = self.directory / "data" / "agent.log"
        return path.read_text() if path.exists() else ""

    def kill(self) -> None:
        """Ends the agent as a power failure would end it."""
        pid = self.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: self.pid is None, "the killed agent is gone")
