"""One agent and a thousand watchers: what they cost it, and how soon each of them is told of a change."""

from __future__ import annotations

import http.client
import select
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks.agents import Agent, mesh

WATCHERS = 1000
CHANGES = 100
SERVICES = 20
PAUSE_S = 0.1

_REQUEST = b"GET /api/watch HTTP/1.1\r\nHost: localhost\r\n\r\n"


def run(watchers: float = WATCHERS) -> Iterator[str]:
    """Yields lines with the figures; takes about half a minute."""
    with tempfile.TemporaryDirectory() as name, mesh(Path(name), "one") as (_, (agent,)):
        for number in range(SERVICES):
            _register(agent, f"service-{number}", 9000)
        pid = int((Path(name) / "one" / "agent.pid").read_text().split()[0])
        with ExitStack() as stack:
            # The first ones pay for what is loaded once, and are no part of what each costs.
            _Watchers(stack, agent.port, 10).take_snapshots()
            before = _memory(pid)
            began = time.perf_counter()
            crowd = _Watchers(stack, agent.port, int(watchers))
            crowd.take_snapshots()
            begun_s = time.perf_counter() - began
            cost = _memory(pid) - before
            yield (
                f"{watchers:g} watchers, each shown {SERVICES + 1} instances first: {cost / 1e6:.1f} MB, "
                f"{cost / watchers / 1000:.1f} kB each, all within {begun_s:.2f} s"
            )
            cpu_s = _cpu_s(pid)
            told = [crowd.told_after(agent, number) for number in range(CHANGES)]
            cpu_s = _cpu_s(pid) - cpu_s
            memory = _memory(pid) - before
        firsts, middles, lasts = (sorted(column) for column in zip(*told, strict=True))
        yield (
            f"{CHANGES} changes, from the request that makes one until a watcher has read of it: "
            f"the first {_ms(firsts)}, the one in the middle {_ms(middles)}, the last {_ms(lasts)}"
        )
        yield (
            f"after them: {memory / 1e6:.1f} MB; {1000 * cpu_s / CHANGES:.1f} ms of the processor "
            "for a change that all are told of"
        )


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
        time.sleep(PAUSE_S)
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


def _register(agent: Agent, service: str, port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=10)
    connection.request("POST", "/api/services", _body(service, port))
    assert connection.getresponse().status == 200
    connection.close()


def _body(service: str, port: int) -> bytes:
    record = {"name": service, "id": "1", "host": "127.0.0.1", "port": port, "capabilities": ["gpu"]}
    return msgspec.json.encode(record)


def _memory(pid: int) -> int:
    """Returns the memory that is a process's own, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def _ms(ordered: list[float]) -> str:
    rank = min(len(ordered) - 1, len(ordered) * 99 // 100)
    return f"{1000 * statistics.median(ordered):.1f} ms (p99 {1000 * ordered[rank]:.1f} ms)"
