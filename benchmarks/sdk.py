"""The SDK: how fast it resolves in memory, what the whole mesh costs a program, and how soon it hears."""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.two_hosts import agent, free_port
from pmoves_mesh.config import load
from pmoves_mesh.sdk.directory import Directory
from pmoves_mesh.sdk.events import ServerEvent, fold
from pmoves_mesh.sdk.instance import Instance
from pmoves_mesh.sdk.mesh import Mesh, Terms

INSTANCES = 20
RESOLVES = 1_000_000
MESH = 10_000
CHANGES = 100

_FIELDS: dict[str, Any] = {
    "ports": {},
    "mode": "docked",
    "capabilities": ("rag", "search"),
    "health_url": None,
    "health_status": "healthy",
    "health_output": "",
    "node_status": "alive",
    "maintenance": False,
    "maintenance_reason": "",
    "deregister_after": 300.0,
    "registered_at": "2026-01-01T00:00:00.000Z",
    "last_seen": "2026-01-01T00:00:00.000Z",
    "revision": 1,
    "position": 1,
    "verified": True,
    "signer": "spiffe://pmoves-mesh/node/main",
}


def run() -> Iterator[str]:
    """Yields lines with the figures; takes about half a minute."""
    equal = _mesh_of([_instance("rag", number) for number in range(INSTANCES)])
    weighted = _mesh_of([_instance("rag", number, weight=number + 1) for number in range(INSTANCES)])
    yield f"resolve, {INSTANCES} instances: {_rate(lambda: equal.resolve('rag')):,.0f} a second"
    yield f"resolve, {INSTANCES} weights: {_rate(lambda: weighted.resolve('rag')):,.0f} a second"

    def use() -> None:
        with equal.using("rag"):
            pass

    yield f"using, {INSTANCES} instances: {_rate(use):,.0f} a second"
    yield from _whole_mesh()
    yield from asyncio.run(_heard())


def _instance(name: str, number: int, **metadata: Any) -> Instance:
    own = {"name": name, "id": str(number), "node": f"node-{number % 50}", "host": "10.0.0.1", "port": 8086}
    return Instance(**own, **_FIELDS, metadata=metadata)


def _mesh_of(instances: list[Instance]) -> Mesh:
    mesh = Mesh(Terms(config=load({}, Path.cwd())))
    mesh._directory.replace(instances, 1)  # noqa: SLF001 - nothing but the memory is measured
    return mesh


def _rate(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    for _ in range(RESOLVES):
        work()
    return RESOLVES / (time.perf_counter() - begin)


def _whole_mesh() -> Iterator[str]:
    data = msgspec.json.encode(
        {"services": [_instance(f"service-{number // 10}", number) for number in range(MESH)]}
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
        with agent(folder, "one", {"PMOVES_NATS_PORT": str(free_port())}) as port:
            url = f"http://127.0.0.1:{port}"
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
