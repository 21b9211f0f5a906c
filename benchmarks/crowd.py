"""A crowd of whole agents in a few processes, all on one nats-server of this machine.

    python -m benchmarks.crowd URL

runs agents in one process: for each line of its standard input that says `FIRST COUNT` it starts `node-FIRST`
and so on, and prints their HTTP ports; it ends when its standard input does. `Crowd` starts several such
processes and measures them.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final, Self

import msgspec
import structlog
import uvloop

from benchmarks.agents import Server, status
from benchmarks.processes import (
    READY_S,
    ROOT,
    end,
    processor_s,
    resident_bytes,
    seconds_until,
)
from pmoves_mesh.agent.agent import serve
from pmoves_mesh.agent.trust.trusted import IDENTITY_DIR
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.pki import keystore

_WAVE: Final = 40
_READY_EACH_S: Final = 0.5
"""How much longer a wave may take to be ready for each agent that is there: all of them verify its words."""

_MESH: Final = "pmoves-mesh"
_CA_DIR: Final = "tls"
_ROOTS_DIR: Final = "roots"


class Crowd:
    """So many agents, spread over a few processes, each with a connection of its own.

    The first of them keeps the mesh's CA, as one host of a mesh does; the others have their identities.

    Attributes:
        ports: of the agents' HTTP APIs, the first agent's first.
    """

    def __init__(self, server: Server, folder: Path, agents: int, processes: int) -> None:
        self.ports: list[int] = []
        self._server = server
        self._folder = folder
        self._agents = agents
        self._processes = processes
        self._running: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        try:
            keystore.ensure_authority(self._folder / _CA_DIR, _MESH, SystemClock().now_ms())
            (self._folder / _ROOTS_DIR).mkdir()
            keystore.write_roots(self._folder / _ROOTS_DIR, keystore.read_roots(self._folder / _CA_DIR))
            self._running = [self._process(number) for number in range(self._processes)]
            for first in range(0, self._agents, _WAVE):
                self._start(range(first, min(first + _WAVE, self._agents)))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # They say no goodbye: what they would tell each other of that is not measured, and takes minutes.
        for process in self._running:
            end(process)
        self._stack.close()

    def processor_s(self) -> float:
        """Returns the seconds of processor that the agents have used."""
        return sum(processor_s(process.pid) for process in self._running)

    def resident_bytes(self) -> int:
        """Returns the memory that the agents use, the interpreters' own with it."""
        return sum(resident_bytes(process.pid) for process in self._running)

    def _process(self, number: int) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._folder / f"crowd-{number}.log").open("wb"))
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.crowd", self._server.url],
            cwd=self._folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )

    def _start(self, wave: range) -> None:
        """Starts some agents, each process its part, and waits until all of them have joined the mesh."""
        size = -(-len(wave) // self._processes)
        shares = [wave[begin : begin + size] for begin in range(0, len(wave), size)]
        asked = list(zip(self._running, shares, strict=False))
        for process, share in asked:
            assert process.stdin is not None
            process.stdin.write(f"{share.start} {len(share)}\n".encode())
            process.stdin.flush()
        ports: list[int] = []
        for number, (process, _) in enumerate(asked):
            assert process.stdout is not None
            if not (line := process.stdout.readline()):
                log = (self._folder / f"crowd-{number}.log").read_text()
                raise RuntimeError(f"a process of agents ended: {log[-500:]}")
            ports += msgspec.json.decode(line, type=list[int])
        self.ports += ports
        within_s = READY_S + _READY_EACH_S * len(self.ports)
        try:
            for port in ports:
                seconds_until(partial(_is_ready, port), within_s)
        except RuntimeError:
            why = "they need the cores for themselves"
            raise RuntimeError(f"of {len(self.ports)} agents some are not ready: {why}") from None


def _is_ready(port: int) -> bool:
    return status(port, "/readyz") == 200


async def _run(url: str) -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        while line := await asyncio.to_thread(sys.stdin.readline):
            first, count = map(int, line.split())
            starting = [_begin(url, number, stop, group) for number in range(first, first + count)]
            print(msgspec.json.encode(await asyncio.gather(*starting)).decode(), flush=True)
            # As in an agent of its own: the collector never looks at what it began with.
            gc.freeze()
            gc.enable()
        stop.set()


async def _begin(url: str, number: int, stop: asyncio.Event, group: asyncio.TaskGroup) -> int:
    """Starts an agent, and returns its port once it answers."""
    node, clock = f"node-{number}", SystemClock()
    config = load(settings(url, node, _ROOTS_DIR if number else _CA_DIR), Path.cwd())
    identity, tls_dir = config.data_dir / IDENTITY_DIR, Path.cwd() / _CA_DIR
    await asyncio.to_thread(keystore.open_identity, identity, tls_dir, _MESH, node, (), clock.now_ms())
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    group.create_task(serve(config, clock, stop, listening=listening.set_result))
    return await listening


def settings(url: str, name: str, tls_dir: str) -> dict[str, str]:
    """Returns the settings of one agent among many on this machine."""
    return {
        "NATS_URL": url,
        "MESH_HOSTNAME": name,
        "SERVICE_REGISTRY_PORT": "0",
        "PMOVES_DATA_DIR": name,
        "PMOVES_TLS_DIR": tls_dir,
        "PMOVES_DNS_PORT": "0",
        "PMOVES_CONTAINERS": "off",
    }


if __name__ == "__main__":
    gc.disable()
    uvloop.run(_run(sys.argv[1]))
