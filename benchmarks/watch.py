"""One agent and a thousand watchers: how soon each of them is told of a change, and what they cost it."""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.agents import Agent, mesh
from benchmarks.filled import Stand
from benchmarks.measure import Figure, Target, figure, percentile
from benchmarks.processes import processor_s
from benchmarks.watchers import Watchers

TITLE = "watch"
LAST = Target(at_most=50)
SERVICES = 20

_PAUSE_S = 0.1


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    watchers, changes = stand.size.watchers, stand.size.changes
    with mesh(stand.folder(), "one") as (_, (agent,)), ExitStack() as stack:
        for number in range(SERVICES):
            agent.register(f"service-{number}", id="1", capabilities=["gpu"])
        # The first ones pay for what is loaded once, and are no part of what each costs.
        Watchers(stack, [agent.port] * 10)
        before, began = _memory(agent.pid), time.perf_counter()
        crowd = Watchers(stack, [agent.port] * watchers)
        begun_s, cost = time.perf_counter() - began, _memory(agent.pid) - before
        used_s = processor_s(agent.pid)
        told = [_told_after(crowd, agent, number) for number in range(changes)]
        used_s = processor_s(agent.pid) - used_s
    first, middle, last = ([1000 * one for one in column] for column in zip(*told, strict=True))
    among = f"of {watchers:,} watchers, from the request"
    yield figure(f"the last {among}", "ms", last, target=LAST, note=f"p99 {percentile(last, 99):.1f} ms")
    yield figure(f"the one in the middle {among}", "ms", middle)
    yield figure(f"the first {among}", "ms", first)
    yield figure("processor for a change that all are told of", "ms", [1000 * used_s / changes])
    yield figure("memory of each watcher", "KB", [cost / watchers / 1e3])
    yield figure("all are shown what there is within", "s", [begun_s])


def _told_after(watchers: Watchers, agent: Agent, number: int) -> tuple[float, float, float]:
    """Changes a service; returns after how many seconds the first, the middle and the last were told."""
    time.sleep(_PAUSE_S)
    body = _body("service-0", 9001 + number)
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=10)
    connection.connect()
    began = time.perf_counter()
    connection.request("POST", "/api/services", body)
    times = watchers.read(b"event: changed", b"\n\n")
    assert connection.getresponse().status == 200
    connection.close()
    return times[0] - began, statistics.median(times) - began, times[-1] - began


def _body(service: str, port: int) -> bytes:
    record = {"name": service, "id": "1", "host": "127.0.0.1", "port": port, "capabilities": ["gpu"]}
    return msgspec.json.encode(record)


def _memory(pid: int) -> int:
    """Returns the memory that is a process's own, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
