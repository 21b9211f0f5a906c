"""What each part of a mesh costs: per change, per instance, per node; and where that ends.

    python -m benchmarks scale

`docs/scale.md` tells what follows from it.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

sys.path.extend(str(Path(__file__).parent.parent / "tests" / name) for name in ("", "integration"))

import msgspec
import structlog
from msgspec import Struct
from secured import SecuredMesh

from benchmarks.agents import Server
from benchmarks.crowd import Crowd
from benchmarks.mesh import MESH, Mesh
from benchmarks.mesh_size import PROCESSES, at_rest, post_service
from benchmarks.processes import free_port, processor_s, resident_bytes
from pmoves_mesh.core import snapshot
from pmoves_mesh.core.names import bucket_stream, spiffe_id
from pmoves_mesh.core.witness import repeat_interval_s
from pmoves_mesh.log.api import call
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.topology import EVENTS, LEASES, REGISTRY
from pmoves_mesh.server.access import Access, Member

CROWDS = (10, 100, 500)
CHANGES = 1_000
INSTANCES = (1_000, 10_000, 100_000)
MEMBERS = (10, 100, 1_000, 4_000)
LEASE_TTL_S = 10
LEASES_WRITTEN = 3_000
IN_FLIGHT = 64
REACHED = 20
SETTLE_S = 20.0
IDLE_S = 30.0
_KB = 1024


class _State(Struct):
    messages: int
    bytes: int


class _Info(Struct):
    state: _State


def run(idle_s: float = IDLE_S) -> Iterator[str]:
    """Yields lines with the figures; takes about seven minutes on two cores.

    Args:
        idle_s: for how long a mesh at rest is watched.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    yield from _registries()
    with _folder() as folder:
        yield from asyncio.run(_changes(folder))
    with _folder() as folder:
        yield from asyncio.run(_leases(folder))
    yield "announcements that repeat, by the default of 15 s"
    for nodes in (10, 100, 1_000, 10_000):
        each_s = repeat_interval_s(15, nodes)
        yield _line(f"{nodes:,} nodes", f"each every {each_s:.0f} s, {nodes / each_s:.1f} a second together")
    for members in MEMBERS:
        with _folder() as folder:
            yield from asyncio.run(_members(folder, members))
    for agents in CROWDS:
        with _folder() as folder:
            found = at_rest(folder, agents, settle_s=SETTLE_S, idle_s=idle_s, reaches=REACHED)
        yield f"{agents} agents in {PROCESSES} processes, at rest"
        yield _line("each takes", f"{found.percent:.3f} % of a processor, {found.bytes / _KB**2:.1f} MB")
        yield _line(
            "the server takes for each",
            f"{found.server_percent:.4f} %, {found.server_bytes / _KB**2:.2f} MB",
        )
        yield _line(
            "each sends and receives",
            f"{found.messages_per_s:.1f} messages, {found.bytes_per_s:.0f} bytes a second",
        )
        yield _line(
            "a change is told by all of them within",
            f"{statistics.median(found.reached_ms):.0f} ms, at worst {max(found.reached_ms):.0f} ms; "
            f"by half of them within {statistics.median(found.reached_half_ms):.0f} ms",
        )


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        yield Path(folder)


def _line(what: str, found: str) -> str:
    return f"    {what:<48} {found}"


def _registries() -> Iterator[str]:
    """Measures the registry in memory, each size in a process of its own."""
    alone = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=alone, max_tasks_per_child=1) as processes:
        empty = processes.submit(_registry, 0).result()
        for instances in INSTANCES:
            found = processes.submit(_registry, instances).result()
            memory = (found[0] - empty[0]) / instances / _KB
            yield f"{instances:,} instances"
            yield _line("memory of each", f"{memory:.2f} KB")
            yield _line("each in the snapshot on disk", f"{found[1] / instances:.0f} bytes")
            yield _line("the snapshot written, read", f"{found[2]:.2f} s, {found[3]:.2f} s")


def _registry(instances: int) -> tuple[int, int, float, float]:
    """Returns memory, and the snapshot's size and times, of a registry that was folded from signed events."""
    mesh = Mesh()
    registry = mesh.registry(instances)
    gc.collect()
    memory = resident_bytes(os.getpid())
    began = time.perf_counter()
    blob = snapshot.dump(registry, MESH)
    dumped = time.perf_counter()
    snapshot.load(blob, MESH)
    return memory, len(blob), dumped - began, time.perf_counter() - dumped


@asynccontextmanager
async def _server(folder: Path) -> AsyncIterator[tuple[Server, Connection]]:
    server = Server(folder)
    server.start()
    try:
        async with Connection(NatsSettings(servers=(server.url,))) as connection:
            await connection.wait_connected(5)
            yield server, connection
    finally:
        server.kill()


async def _stored(connection: Connection, stream: str) -> tuple[int, int]:
    """Returns how many messages a stream holds, and in how many bytes."""
    state = (await call(connection.session(), f"STREAM.INFO.{stream}", _Info)).state
    return state.messages, state.bytes


async def _changes(folder: Path) -> list[str]:
    """Registers services at one of two agents, and sees what that takes everywhere."""
    async with _server(folder) as (server, connection):
        with Crowd(server, folder, 2, 2) as crowd:
            before, carried = await _stored(connection, EVENTS), server.carried()
            used = crowd.processor_s(), processor_s(server.pid)
            began = time.perf_counter()
            for index in range(CHANGES):
                body = {
                    "name": f"service-{index}",
                    "host": "10.1.2.3",
                    "port": 8000,
                    "capabilities": ["rag", "search", "gpu"],
                    "metadata": {"version": "1.2.3", "zone": "rack-7"},
                }
                post_service(crowd.ports[0], msgspec.json.encode(body))
            elapsed = time.perf_counter() - began
            await asyncio.sleep(2)
            after, then = await _stored(connection, EVENTS), server.carried()
            keys, held = await _stored(connection, bucket_stream(REGISTRY))
            agents_s = (crowd.processor_s() - used[0]) / CHANGES
            server_s = (processor_s(server.pid) - used[1]) / CHANGES
    stored = (after[1] - before[1]) / (after[0] - before[0])
    return [
        "a change, with two agents on plain NATS",
        _line("in the stream, in the bucket", f"{stored:.0f} bytes, {held / keys:.0f} bytes"),
        _line("to and from the server", f"{(then[1] - carried[1]) / CHANGES / _KB:.1f} KB"),
        _line("processor of both agents", f"{agents_s * 1000:.2f} ms"),
        _line("processor of the server", f"{server_s * 1000:.2f} ms"),
        _line("one after another", f"{CHANGES / elapsed:.0f} a second"),
    ]


async def _leases(folder: Path) -> list[str]:
    """Measures how many leases a server can take, beside what each node writes."""
    async with _server(folder) as (server, connection):
        with Crowd(server, folder, 1, 1):
            bucket, gate = NatsBucket(connection, LEASES), asyncio.Semaphore(IN_FLIGHT)

            async def refresh(node: int) -> None:
                async with gate:
                    await bucket.put(f"bench-{node % 1000}", b"{}", ttl_s=LEASE_TTL_S)

            used, began = processor_s(server.pid), time.perf_counter()
            await asyncio.gather(*map(refresh, range(LEASES_WRITTEN)))
            elapsed = time.perf_counter() - began
            used = (processor_s(server.pid) - used) / LEASES_WRITTEN
    need = 3 / LEASE_TTL_S
    return [
        "leases",
        _line("each node writes its own", f"{need:.1f} times a second"),
        _line("the server takes", f"{LEASES_WRITTEN / elapsed:,.0f} a second"),
        _line("processor of the server for each", f"{used * 1e6:.0f} us"),
    ]


async def _members(folder: Path, members: int) -> list[str]:
    """Measures what it takes a secured server to let in another member, when it has so many."""
    mesh = SecuredMesh(folder)
    drawn = random.Random(members)  # noqa: S311 - pins that nobody has a key for
    others = tuple(_member(mesh.mesh, f"node-{index}", drawn) for index in range(members - 2))
    access = mesh.access()
    access = msgspec.structs.replace(access, members=(*access.members, *others))
    server = mesh.server(free_port(), access)
    await server.start()
    try:
        times = []
        for attempt in range(5):
            admitted: Access = msgspec.structs.replace(
                access, members=(*access.members, _member(mesh.mesh, f"late-{attempt}", drawn))
            )
            began = time.perf_counter()
            await server.admit(admitted)
            times.append(time.perf_counter() - began)
        assert server.pid is not None
        memory = resident_bytes(server.pid)
    finally:
        await server.stop()
    size = (mesh.directory / "data" / "nats" / "nats-server.conf").stat().st_size
    return [
        f"a secured server with {members:,} members",
        _line("another one is let in within", f"{statistics.median(times) * 1000:.0f} ms"),
        _line("memory of the server, its configuration", f"{memory / _KB**2:.0f} MB, {size / _KB**2:.1f} MB"),
    ]


def _member(mesh: str, name: str, drawn: random.Random) -> Member:
    pin = drawn.randbytes(32).hex()
    return Member(identity=spiffe_id(mesh, "node", name), kind="node", name=name, pins=(pin,))
