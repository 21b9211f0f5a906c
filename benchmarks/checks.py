"""One agent with a thousand HTTP checks of ten seconds: what it takes, and whether it keeps to them."""

from __future__ import annotations

import asyncio
import http.client
import os
import statistics
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec

from benchmarks.two_hosts import agent, free_port

CHECKS = 1000
INTERVAL_S = 10.0
WARM_UP_S = 30.0
MEASURED_S = 60.0

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def run() -> Iterator[str]:
    """Yields lines with the figures; takes about two minutes."""
    with tempfile.TemporaryDirectory() as name, _service() as (port, asked):
        folder = Path(name)
        with agent(folder, "one", {"PMOVES_NATS_PORT": str(free_port())}) as http_port:
            _register(http_port, port)
            pid = int((folder / "one" / "agent.pid").read_text().split()[0])
            time.sleep(WARM_UP_S)
            asked.clear()
            began, before_s = time.perf_counter(), _cpu_s(pid)
            time.sleep(MEASURED_S)
            used = (_cpu_s(pid) - before_s) / (time.perf_counter() - began)
    pauses = [later - earlier for times in asked.values() for earlier, later in pairwise(times)]
    late = sorted(pause - INTERVAL_S * 1.1 for pause in pauses)
    yield f"{CHECKS} HTTP checks of {INTERVAL_S:g} s, one agent: {100 * used:.1f} % of a core"
    yield (
        f"{len(pauses)} pauses between probes of one instance: median {statistics.median(pauses):.2f} s, "
        f"{min(pauses):.2f} to {max(pauses):.2f} s; {sum(one > 0.5 for one in late)} more than 0.5 s too late"
    )


def _register(http_port: int, port: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", http_port)
    for number in range(CHECKS):
        check = {"type": "http", "url": f"http://127.0.0.1:{port}/{number}", "interval_s": INTERVAL_S}
        body = {"name": f"service-{number}", "host": "127.0.0.1", "port": port, "check": check}
        connection.request("POST", "/api/services?wait=none", msgspec.json.encode(body))
        response = connection.getresponse()
        assert response.status in {200, 202}, response.read()
        response.read()
    connection.close()


def _cpu_s(pid: int) -> float:
    """Returns the processor time that a process has used; that of its nats-server is not its own."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def _service() -> Iterator[tuple[int, dict[bytes, list[float]]]]:
    """Runs what is probed, in a thread; yields its port, and when each path was asked for."""
    asked: defaultdict[bytes, list[float]] = defaultdict(list)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked[head.split(b" ", 2)[1]].append(time.perf_counter())
        writer.write(_ANSWER)
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0, backlog=CHECKS))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()
