"""What an agent takes of the processor while nothing happens: with nothing to look after, and with checks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from benchmarks.agents import Agent, mesh
from benchmarks.filled import Stand, ask_all
from benchmarks.measure import Figure, Target, figure
from benchmarks.processes import processor_s
from benchmarks.wrk import post

TITLE = "idle"
WITH_CHECKS = Target(at_most=2)
WITH_NONE = Target(at_most=0.3)
INTERVAL_S = 10.0

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    size = stand.size
    with ExitStack() as stack:
        # Each in a mesh of its own, and both at the same time: two cores are not busy with that.
        _, (idle,) = stack.enter_context(mesh(stand.folder(), "idle"))
        server, (busy,) = stack.enter_context(mesh(stand.folder(), "busy"))
        port, asked = stack.enter_context(service())
        with_checks(busy, port, size.checks)
        time.sleep(size.settle_s)
        asked.clear()
        pids = {"none": idle.pid, "checks": busy.pid, "server": server.pid}
        before = {name: processor_s(pid) for name, pid in pids.items()}
        time.sleep(size.idle_s)
        used = {name: 100 * (processor_s(pid) - before[name]) / size.idle_s for name, pid in pids.items()}
        probes = sum(map(len, asked.values()))
    of = "% of a core"
    each = f"over {size.idle_s:g} s"
    yield figure("an agent with no services", of, [used["none"]], target=WITH_NONE, note=each)
    yield figure(
        f"an agent with {size.checks} services that it checks every {INTERVAL_S:g} s",
        of,
        [used["checks"]],
        target=WITH_CHECKS,
        note=f"{probes / size.idle_s:.1f} probes a second",
    )
    yield figure("the nats-server of that one", of, [used["server"]])


def with_checks(agent: Agent, port: int, count: int) -> None:
    """Registers services that are asked for at a port every 10 s."""
    records = (
        {
            "name": f"service-{number}",
            "host": "127.0.0.1",
            "port": port,
            "check": {"type": "http", "url": f"http://127.0.0.1:{port}/{number}", "interval_s": INTERVAL_S},
        }
        for number in range(count)
    )
    ask_all(agent.port, (post("/api/services", msgspec.json.encode(one)) for one in records))


@contextmanager
def service() -> Iterator[tuple[int, dict[bytes, list[float]]]]:
    """Runs what is probed, in a thread; yields its port, and when each path was asked for."""
    asked: defaultdict[bytes, list[float]] = defaultdict(list)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked[head.split(b" ", 2)[1]].append(time.perf_counter())
        writer.write(_ANSWER)
        writer.close()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        server.close()
        loop.close()
