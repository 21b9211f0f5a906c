"""The SDK: what the whole mesh costs a program, and how soon it hears (`resolve`: how fast it chooses)."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
import tracemalloc
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.agents import mesh as running
from benchmarks.resolve import instance
from pmoves_mesh.config import load
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.events import ServerEvent, fold
from pmoves_mesh.sdk.mesh import Mesh

MESH = 10_000
CHANGES = 100


def run() -> Iterator[str]:
    """Yields lines with the figures; takes about ten seconds."""
    yield from _whole_mesh()
    yield from asyncio.run(_heard())


def _whole_mesh() -> Iterator[str]:
    data = msgspec.json.encode(
        {"services": [instance(f"service-{number // 10}", number) for number in range(MESH)]}
    )
    directory = Directory()
    begin = time.perf_counter()
    fold(directory, ServerEvent("snapshot", 1, data))
    took_s = time.perf_counter() - begin
    yield f"a snapshot of {MESH:,} instances, {len(data) / 1e6:.1f} MB: {took_s * 1000:.0f} ms to take in"
    tracemalloc.start()
    fold(held := Directory(), ServerEvent("snapshot", 1, data))
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    yield f"{sum(1 for _ in held):,} instances in a program's memory: {size / 1e6:.1f} MB"


async def _heard() -> list[str]:
    """Returns how long after its acknowledgement a registration at an agent is known to a program."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with running(folder, "one") as (_, (agent,)):
            url = f"http://127.0.0.1:{agent.port}"
            async with Mesh.connect(url, config=load({}, folder)) as mesh:
                delays = [await _delay(mesh, url, number) for number in range(CHANGES)]
    shown = statistics.quantiles(delays, n=100)
    p50, p99 = statistics.median(delays) * 1000, shown[98] * 1000
    return [f"{CHANGES} registrations, known to a program after they were taken: {p50:.1f} ms, p99 {p99:.1f}"]


async def _delay(mesh: Mesh, url: str, number: int) -> float:
    changes = mesh.watch(f"heard-{number}")
    waiting = asyncio.ensure_future(anext(changes))
    body = json.dumps({"name": f"heard-{number}", "port": 1}).encode()
    request = urllib.request.Request(f"{url}/api/services", body)  # noqa: S310 - our own agent
    await asyncio.to_thread(lambda: urllib.request.urlopen(request).read())  # noqa: S310 - as above
    begin = time.perf_counter()
    async with asyncio.timeout(10):
        await waiting
    took_s = time.perf_counter() - begin
    await changes.aclose()
    return took_s
