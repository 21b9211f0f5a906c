"""How soon an agent is ready when its NATS server runs, and how soon the command line answers."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from statistics import median

from benchmarks.agents import Agent, Server
from benchmarks.filled import Stand
from benchmarks.measure import Figure, Target, figure, interleaved
from benchmarks.processes import ROOT

TITLE = "start"
READY = Target(at_most=400)
HELP = Target(at_most=150)
PYTHON = "python -c pass"


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    folder = stand.folder()
    server = Server(folder)
    agent = Agent(folder, "one", {"NATS_URL": server.url})
    command = (sys.executable, "-m", "pmoves_mesh")
    try:
        server.start()
        agent.start()
        _ended(*command, "--help"), _ended(*command, "version")  # which compiles what they import
        found = interleaved(
            stand.size.starts,
            {
                "again": lambda: _ready(agent),
                "first": lambda: _ready(agent, first=True),
                "help": lambda: _ended(*command, "--help"),
                "version": lambda: _ended(*command, "version"),
                PYTHON: lambda: _ended(sys.executable, "-c", "pass"),
            },
        )
    finally:
        agent.end()
        server.kill()
    beside = {PYTHON: median(found[PYTHON])}
    yield figure(
        "`pmoves-mesh agent` until ready, on a host that ran it before",
        "ms",
        found["again"],
        target=READY,
        beside=beside,
    )
    yield figure("`pmoves-mesh agent` until ready, with nothing on disk", "ms", found["first"], target=READY)
    yield figure("`pmoves-mesh --help`", "ms", found["help"], target=HELP, beside=beside)
    yield figure("`pmoves-mesh version`", "ms", found["version"])


def _ready(agent: Agent, *, first: bool = False) -> float:
    """Returns after how many milliseconds it is ready."""
    agent.end(signal.SIGTERM)
    if first:
        shutil.rmtree(agent.data)
    began = time.perf_counter()
    agent.start()
    return 1000 * (time.perf_counter() - began)


def _ended(*command: str) -> float:
    """Returns after how many milliseconds a program has ended."""
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return 1000 * (time.perf_counter() - began)
