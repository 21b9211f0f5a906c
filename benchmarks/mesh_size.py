"""How large a mesh may be: what each agent costs at rest, and how soon a change reaches all of them.

Whole agents in a few processes on one server, each with a connection of its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.agents import Server
from benchmarks.crowd import Crowd
from benchmarks.filled import Stand
from benchmarks.measure import Figure, Target, figure, percentile
from benchmarks.processes import processor_s, resident_bytes

TITLE = "mesh size"
FLAT = Target(at_most=1.2)
WITHIN = Target(at_most=250)
PROCESSES = 4

_REACH_S = 60.0
_MB = 1e6
_SHARE = "% of a core"


class AtRest(NamedTuple):
    """What a mesh of so many agents takes while nothing happens; all but the last for each agent.

    Attributes:
        percent: of a core.
        server_percent: of a core, taken by the server.
        bytes: of memory, the interpreters' with it.
        server_bytes: of the server's memory.
        reached_ms: how soon all were told of each of some changes.
    """

    percent: float
    server_percent: float
    bytes: float
    server_bytes: float
    messages_per_s: float
    bytes_per_s: float
    reached_ms: list[float]


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    size = stand.size
    found = {
        agents: at_rest(
            stand.folder(), agents, settle_s=size.settle_s, idle_s=size.idle_s / 2, reaches=size.reaches
        )
        for agents in size.agents
    }
    for agents, one in found.items():
        server = f"{one.server_percent:.3f} % of the nats-server beside it; {one.bytes / _MB:.0f} MB each"
        sizes = ("each agent at rest", agents)
        yield figure(f"an agent among {agents} at rest", _SHARE, [one.percent], sizes=sizes, note=server)
    # What takes less than a tick of the clock in all is not seen to take anything.
    least = 1 / (size.idle_s * min(found))
    for what, taken in (
        ("an agent at rest", {agents: one.percent for agents, one in found.items()}),
        (
            "with its part of the nats-server",
            {n: one.percent + one.server_percent for n, one in found.items()},
        ),
    ):
        grown = taken[max(found)] / max(taken[min(found)], least)
        target = FLAT if what == "an agent at rest" else None
        yield figure(f"{what}, among {max(found)} against {min(found)}", "times", [grown], target=target)
    for agents, one in found.items():
        worst = f"the worst of {len(one.reached_ms)}: {percentile(one.reached_ms, 100):.0f} ms"
        target = WITHIN if agents == max(found) else None
        sizes = ("a change has reached all", agents)
        what = f"a change has reached all {agents}"
        yield figure(what, "ms", one.reached_ms, target=target, sizes=sizes, note=worst)


def at_rest(folder: Path, agents: int, *, settle_s: float, idle_s: float, reaches: int) -> AtRest:
    """Measures a mesh at rest, and how soon a change at one agent is told by every other.

    Args:
        folder: where their files are.
        agents: how many.
        settle_s: how long they may first come to rest.
        idle_s: how long they are watched.
        reaches: how many changes.
    """
    server = Server(folder)
    server.start()
    try:
        with Crowd(server, folder, agents, min(PROCESSES, agents)) as crowd:
            time.sleep(settle_s)
            used, server_used, carried = crowd.processor_s(), processor_s(server.pid), server.carried()
            time.sleep(idle_s)
            used, server_used = crowd.processor_s() - used, processor_s(server.pid) - server_used
            then = server.carried()
            reached = [asyncio.run(_reaches_all(crowd, f"reach-{number}")) for number in range(reaches)]
            memory, held = crowd.resident_bytes(), resident_bytes(server.pid)
    finally:
        server.kill()
    messages, sent = ((then[side] - carried[side]) / idle_s / agents for side in (0, 1))
    percent = 100 / idle_s / agents
    return AtRest(
        percent=used * percent,
        server_percent=server_used * percent,
        bytes=memory / agents,
        server_bytes=held / agents,
        messages_per_s=messages,
        bytes_per_s=sent,
        reached_ms=[1000 * one for one in reached],
    )


async def _reaches_all(crowd: Crowd, service: str) -> float:
    """Returns after how many seconds a change at one agent is told to a watcher of each agent."""
    watching = [asyncio.Event() for _ in crowd.ports]
    async with asyncio.timeout(_REACH_S), asyncio.TaskGroup() as group:
        seen = [
            group.create_task(_seen_s(port, service, ready))
            for port, ready in zip(crowd.ports, watching, strict=True)
        ]
        for ready in watching:
            await ready.wait()
        began = time.perf_counter()
        body = {"name": service, "host": "127.0.0.1", "port": 9000}
        await post_service(crowd.ports[0], msgspec.json.encode(body))
    return max(one.result() for one in seen) - began


async def _seen_s(port: int, service: str, ready: asyncio.Event) -> float:
    """Returns when an agent told its watcher of a service."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /api/watch?name={service} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        await reader.readuntil(b"event: snapshot")
        ready.set()
        await reader.readuntil(b"event: added")
        return time.perf_counter()
    finally:
        writer.close()


async def post_service(port: int, body: bytes) -> None:
    """Registers a service at an agent.

    Raises:
        RuntimeError: if it is refused.
    """
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = f"POST /api/services HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    if b" 200 " not in answer.partition(b"\r\n")[0]:
        raise RuntimeError(answer.decode())
