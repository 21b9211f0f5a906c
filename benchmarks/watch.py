"""One agent and a thousand watchers: how soon each of them is told of a change, and what they cost it."""

from __future__ import annotations

import http.client
import select
import socket
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

TITLE = "watch"
LAST = Target(at_most=50)
SERVICES = 20

_PAUSE_S = 0.1
_REQUEST = b"GET /api/watch HTTP/1.1\r\nHost: localhost\r\n\r\n"


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    watchers, changes = stand.size.watchers, stand.size.changes
    with mesh(stand.folder(), "one") as (_, (agent,)), ExitStack() as stack:
        for number in range(SERVICES):
            agent.register(f"service-{number}", id="1", capabilities=["gpu"])
        # The first ones pay for what is loaded once, and are no part of what each costs.
        _Watchers(stack, agent.port, 10).take_snapshots()
        before, began = _memory(agent.pid), time.perf_counter()
        crowd = _Watchers(stack, agent.port, watchers)
        crowd.take_snapshots()
        begun_s, cost = time.perf_counter() - began, _memory(agent.pid) - before
        used_s = processor_s(agent.pid)
        told = [crowd.told_after(agent, number) for number in range(changes)]
        used_s = processor_s(agent.pid) - used_s
    first, middle, last = ([1000 * one for one in column] for column in zip(*told, strict=True))
    among = f"of {watchers:,} watchers, from the request"
    yield figure(f"the last {among}", "ms", last, target=LAST, note=f"p99 {percentile(last, 99):.1f} ms")
    yield figure(f"the one in the middle {among}", "ms", middle)
    yield figure(f"the first {among}", "ms", first)
    yield figure("processor for a change that all are told of", "ms", [1000 * used_s / changes])
    yield figure("memory of each watcher", "KB", [cost / watchers / 1e3])
    yield figure("all are shown what there is within", "s", [begun_s])


class _Watchers:
    """Many connections, read by one loop."""

    def __init__(self, stack: ExitStack, port: int, count: int) -> None:
        self._poll = stack.enter_context(select.epoll())
        self._sockets: dict[int, socket.socket] = {}
        for _ in range(count):
            made = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            made.sendall(_REQUEST)
            made.setblocking(False)
            self._sockets[made.fileno()] = made
            self._poll.register(made, select.EPOLLIN)

    def take_snapshots(self) -> None:
        """Waits until every one has been shown what matches."""
        self._read(b"event: snapshot", b"]}\n\n")

    def told_after(self, agent: Agent, number: int) -> tuple[float, float, float]:
        """Changes a service; returns after how many seconds the first, the middle and the last were told."""
        time.sleep(_PAUSE_S)
        body = _body("service-0", 9001 + number)
        connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=10)
        connection.connect()
        began = time.perf_counter()
        connection.request("POST", "/api/services", body)
        times = self._read(b"event: changed", b"\n\n")
        assert connection.getresponse().status == 200
        connection.close()
        return times[0] - began, statistics.median(times) - began, times[-1] - began

    def _read(self, *marks: bytes) -> list[float]:
        """Reads until each connection has brought all the marks; returns when each had."""
        waiting = dict.fromkeys(self._sockets, b"")
        times = []
        while waiting:
            ready = self._poll.poll(10.0)
            assert ready, f"{len(waiting)} watchers were not told"
            for number, _ in ready:
                got = self._sockets[number].recv(65536)
                assert got, "a watcher was sent away"
                if number in waiting:
                    waiting[number] += got
                    if all(mark in waiting[number] for mark in marks):
                        del waiting[number]
                        times.append(time.perf_counter())
        return times


def _body(service: str, port: int) -> bytes:
    record = {"name": service, "id": "1", "host": "127.0.0.1", "port": port, "capabilities": ["gpu"]}
    return msgspec.json.encode(record)


def _memory(pid: int) -> int:
    """Returns the memory that is a process's own, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))
