"""How soon a lost node is known to be lost, that a living one never is, and what it costs to know.

All at the default lease of 10 s. The steady parts take as long as one asks for: ten minutes for the
figures that are promised.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import structlog

from benchmarks.agents import Agent, Server, mesh
from benchmarks.processes import free_port, seconds_until
from pmoves_mesh.agent.agent import serve
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import load
from pmoves_mesh.core.names import bucket_stream
from pmoves_mesh.log.api import StreamInfo, call
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.consumer import push_consumer
from pmoves_mesh.log.topology import EVENTS, LEASES

NAMES = ("one", "two", "three", "four", "five")
ROUNDS = 5
TTL_S = 10.0
STEADY_S = 60.0
AGENTS = 200
ELSEWHERE = "127.0.0.2"
"""The address of the host that is cut off: this machine too, but not where its agent listens."""


def run(steady_s: float = STEADY_S) -> Iterator[str]:
    """Yields lines with the figures.

    Args:
        steady_s: how long living agents are watched, and the server is away, and an idle mesh is measured.
    """
    with _folder() as folder, mesh(folder, *NAMES) as (_, agents):
        yield _line("kill -9 to out of all others' discovery", "2 s", list(_killed(agents)))
        yield _line("SIGTERM to out of all others' discovery", "0.2 s", list(_left(agents)))
    with _folder() as folder:
        yield _line("network cut to out of all others' discovery", "11 s", list(_cut(folder)))
    with _folder() as folder, mesh(folder, *NAMES[:3]) as (server, agents):
        yield from _steady(agents, steady_s)
        yield from _away(server, agents, min(steady_s, 60.0))
    with _folder() as folder:
        yield from asyncio.run(_idle(folder, steady_s))


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="liveness-") as folder:
        yield Path(folder)


def _line(what: str, promised: str, figures: Sequence[float]) -> str:
    median, worst = statistics.median(figures), max(figures)
    return (
        f"{what:<52} median {median:6.2f} s   worst {worst:6.2f} s   of {len(figures)}, promised {promised}"
    )


def _words(what: str, found: str) -> str:
    return f"{what:<52} {found}"


def _gone_s(victim: Agent, others: Sequence[Agent]) -> float:
    service = f"of-{victim.name}"
    return seconds_until(lambda: not any(one.knows(service) for one in others), 3 * TTL_S)


def _killed(agents: Sequence[Agent]) -> Iterator[float]:
    victim, *others = agents
    for _ in range(ROUNDS):
        victim.send(signal.SIGKILL)
        yield _gone_s(victim, others)
        victim.end()
        _return(victim, others)


def _left(agents: Sequence[Agent]) -> Iterator[float]:
    victim, *others = agents
    for _ in range(ROUNDS):
        victim.send(signal.SIGTERM)
        yield _gone_s(victim, others)
        victim.end(signal.SIGTERM)
        _return(victim, others)


def _return(victim: Agent, others: Sequence[Agent]) -> None:
    victim.start()
    seconds_until(lambda: all(one.knows(f"of-{victim.name}") for one in others))


class _Cable:
    """What leads from an agent to the server, until it is pulled: then bytes go nowhere, and nothing ends."""

    def __init__(self, port: int) -> None:
        self._far = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._is_in = True
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def pull(self) -> None:
        self._is_in = False

    def close(self) -> None:
        for end in (self._listener, *self._ends):
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._ends.append(near)
                if not self._is_in:
                    continue
                far = socket.create_connection(("127.0.0.1", self._far))
                self._ends.append(far)
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while (data := one.recv(65536)) and self._is_in:
                other.sendall(data)
            while not self._is_in:
                time.sleep(1)
            other.close()


@contextmanager
def _silence(port: int) -> Iterator[None]:
    """Lets nothing answer at a port of that host: whoever connects waits behind those whom nobody accepts."""
    with socket.create_server((ELSEWHERE, port), backlog=0), ExitStack() as waiting:
        for _ in range(4):
            client = waiting.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex((ELSEWHERE, port))
        yield


def _cut(folder: Path) -> Iterator[float]:
    """Cuts a host off whose address does not answer, at another moment between two refreshes each time."""
    with mesh(folder, *NAMES[:3]) as (server, others):
        for number in range(ROUNDS):
            cable = _Cable(server.port)
            settings = {"NATS_URL": f"nats://127.0.0.1:{cable.port}", "PMOVES_ADVERTISE_HOST": ELSEWHERE}
            victim = Agent(folder, f"cut-{number}", settings)
            try:
                victim.start()
                victim.register(f"of-{victim.name}")
                seconds_until(lambda: all(one.knows(f"of-{victim.name}") for one in others))  # noqa: B023
                time.sleep(TTL_S / 3 * number / ROUNDS)
                with _silence(victim.port):
                    cable.pull()
                    yield _gone_s(victim, others)
            finally:
                victim.end()
                cable.close()


@contextmanager
def _busy() -> Iterator[None]:
    """Keeps every processor busy, twice over."""
    spinning = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def _steady(agents: Sequence[Agent], seconds: float) -> Iterator[str]:
    """Watches agents on a busy machine, one of which is stopped again and again for almost a lease."""
    stopped, *_ = agents
    drawn = random.Random(1)  # noqa: S311 - it draws moments, not secrets
    stops, until = 0, time.perf_counter() + seconds
    with _busy():
        while time.perf_counter() < until:
            stopped.send(signal.SIGSTOP)
            time.sleep(drawn.uniform(TTL_S / 2, TTL_S - 0.2))
            stopped.send(signal.SIGCONT)
            time.sleep(drawn.uniform(1, TTL_S / 3))
            stops += 1
    time.sleep(2 * TTL_S)
    losses = sum(one.losses() for one in agents)
    yield _words("busy processors, one agent stopped again and again", f"{losses} losses, {stops} stops")


def _away(server: Server, agents: Sequence[Agent], seconds: float) -> Iterator[str]:
    before = sum(one.losses() for one in agents)
    server.kill()
    time.sleep(seconds)
    server.start()
    seconds_until(lambda: all(one.status("/readyz") == 200 for one in agents))
    time.sleep(4 * TTL_S)
    losses = sum(one.losses() for one in agents) - before
    yield _words(f"NATS away for {seconds:g} s, and back", f"{losses} losses")


async def _idle(folder: Path, seconds: float) -> list[str]:
    """Measures a mesh at rest: so many whole agents in this one process, each with its own connection."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    server = Server(folder)
    server.start()
    stop, clock = asyncio.Event(), SystemClock()
    try:
        async with asyncio.TaskGroup() as group, Connection(NatsSettings(servers=(server.url,))) as watching:
            await watching.wait_connected(5)
            for number in range(AGENTS):
                listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                config = load(_settings(server, f"node-{number}"), folder)
                group.create_task(serve(config, clock, stop, listening=listening.set_result))
                await listening
            await asyncio.sleep(3 * TTL_S)
            events, leases = await _lasting(watching), await _written(watching)
            cpu, carried = time.process_time(), server.carried()
            await asyncio.sleep(seconds)
            cpu, then = time.process_time() - cpu, server.carried()
            leases = await _written(watching) - leases
            events_then = await _lasting(watching)
            stop.set()
    finally:
        server.kill()
    each = 1 / seconds / AGENTS
    return [
        _words(
            f"{AGENTS} agents, idle for {seconds:g} s: events that stay",
            f"{events} before, {events_then} after",
        ),
        _words("each of them sends and receives", f"{(then[0] - carried[0]) * each:.1f} messages a second"),
        _words("each of them sends and receives", f"{(then[1] - carried[1]) * each:.0f} bytes a second"),
        _words("each of them writes its lease", f"{leases * each:.2f} times a second"),
        _words("each of them takes", f"{100 * cpu * each:.2f} % of a processor"),
    ]


def _settings(server: Server, name: str) -> dict[str, str]:
    return {
        "NATS_URL": server.url,
        "MESH_HOSTNAME": name,
        "SERVICE_REGISTRY_PORT": str(free_port()),
        "PMOVES_DATA_DIR": name,
        "PMOVES_DNS_PORT": "0",
    }


async def _lasting(connection: Connection) -> int:
    """Returns how many events the stream will not forget by itself, as it does repeated announcements."""
    count = 0
    config = {"deliver_policy": "all", "headers_only": True}
    async with push_consumer(connection.session(), EVENTS, config) as consumer:
        while consumer.pending:
            taken = await consumer.take(1000)
            count += sum("Nats-TTL" not in (message.headers or {}) for message, _ in taken)
    return count


async def _written(connection: Connection) -> int:
    """Returns how many leases were ever written."""
    info = await call(connection.session(), f"STREAM.INFO.{bucket_stream(LEASES)}", StreamInfo)
    return info.state.last_seq
