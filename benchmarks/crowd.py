"""A crowd of whole agents in a few processes, all on one nats-server of this machine.

    python -m benchmarks.crowd URL FIRST COUNT

runs agents `node-FIRST` and so on in one process, prints their HTTP ports once all of them are ready,
and ends when its standard input does. `Crowd` starts several such processes and measures them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Self

import msgspec
import structlog

from benchmarks.agents import Server, status
from benchmarks.processes import ROOT, end, free_port, processor_s, resident_bytes, seconds_until
from pmoves_mesh.agent.agent import serve
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load

_LEAVE_S = 30.0


class Crowd:
    """So many agents, spread over a few processes, each with a connection of its own.

    Attributes:
        ports: of the agents' HTTP APIs.
    """

    def __init__(self, server: Server, folder: Path, agents: int, processes: int) -> None:
        self.ports: list[int] = []
        self._server = server
        self._folder = folder
        self._shares = [range(first, agents, processes) for first in range(processes)]
        self._running: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        first = 0
        for share in self._shares:
            log = self._stack.enter_context((self._folder / f"crowd-{first}.log").open("wb"))
            arguments = (self._server.url, str(first), str(len(share)))
            process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.crowd", *arguments],
                cwd=self._folder,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            self._running.append(process)
            assert process.stdout is not None
            self.ports += msgspec.json.decode(process.stdout.readline(), type=list[int])
            first += len(share)
        for port in self.ports:
            seconds_until(partial(_is_ready, port))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            assert process.stdin is not None
            process.stdin.close()
        for process in self._running:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_LEAVE_S)
            end(process)
        self._stack.close()

    def processor_s(self) -> float:
        """Returns the seconds of processor that the agents have used."""
        return sum(processor_s(process.pid) for process in self._running)

    def resident_bytes(self) -> int:
        """Returns the memory that the agents use, the interpreters' own with it."""
        return sum(resident_bytes(process.pid) for process in self._running)


def _is_ready(port: int) -> bool:
    return status(port, "/readyz") == 200


async def _run(url: str, first: int, count: int) -> None:
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    stop, clock, ports = asyncio.Event(), SystemClock(), []
    async with asyncio.TaskGroup() as group:
        for number in range(first, first + count):
            listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            config = load(settings(url, f"node-{number}"), Path.cwd())
            group.create_task(serve(config, clock, stop, listening=listening.set_result))
            ports.append(await listening)
        print(msgspec.json.encode(ports).decode(), flush=True)
        await asyncio.to_thread(sys.stdin.read)
        stop.set()


def settings(url: str, name: str) -> dict[str, str]:
    """Returns the settings of one agent among many on this machine."""
    return {
        "NATS_URL": url,
        "MESH_HOSTNAME": name,
        "SERVICE_REGISTRY_PORT": str(free_port()),
        "PMOVES_DATA_DIR": name,
        "PMOVES_DNS_PORT": "0",
        "PMOVES_CONTAINERS": "off",
    }


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
