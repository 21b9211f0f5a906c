"""What it costs to find out about hosts, and to choose among many."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from benchmarks.agents import Agent, mesh
from benchmarks.mesh import MESH, NODES, Mesh
from pmoves_mesh.agent.resources.detection import Detection
from pmoves_mesh.core import lease
from pmoves_mesh.core.choice import Choice, best_first, matching
from pmoves_mesh.core.event import NodeAnnounced
from pmoves_mesh.core.lease import Lease
from pmoves_mesh.core.load import Load
from pmoves_mesh.core.where import parse_where

INSTANCES = 10_000
AGENTS = 3
TTL_S = 3
ASKED = 300
LOAD = Load(cpu=0.25, memory=0.5, gpu=0.75)
GPU = {"vendor": "nvidia", "model": "NVIDIA GeForce RTX 5090", "memory_gb": 32, "driver": "580.65.06"}


def run() -> Iterator[str]:
    """Yields lines with the figures; takes about half a minute."""
    with tempfile.TemporaryDirectory() as name:
        detection = Detection(Path("/"), Path(name))
        yield _line("what this host has, looked at", detection.resources)
        yield _line("how much of it is in use, read", detection.load)
    yield from _leases(Mesh())
    yield from _choices(Mesh())
    yield from _asking()


def _leases(mesh: Mesh) -> Iterator[str]:
    identity = mesh.identities[0]
    plain = Lease(node="node-0", incarnation=1, holder="0" * 16, host="10.1.2.3", time_ms=mesh.now_ms)
    loaded = lease.seal(msgspec.structs.replace(plain, load=LOAD), MESH, identity)
    yield f"a lease: {len(lease.seal(plain, MESH, identity))} bytes, {len(loaded)} with the load"
    yield _line("a lease verified", lambda: lease.unseal(loaded, "node-0", mesh.trust, mesh.now_ms))


def _choices(mesh: Mesh) -> Iterator[str]:
    registry = mesh.registry(INSTANCES)
    for index in range(NODES):
        announced = NodeAnnounced(
            mesh=MESH,
            node=f"node-{index}",
            incarnation=1,
            revision=INSTANCES + 1,
            host="10.1.2.3",
            resources={"cpu_cores": 16, "gpu": [GPU]} if index % 10 == 0 else {"cpu_cores": 16},
        )
        registry.nodes[announced.node].announced = announced
    for what, where in (
        ("their nodes", {"resources.gpu.memory_gb": {"gte": 8}}),
        ("their metadata", {"metadata.zone": "rack-9"}),
    ):
        choice = Choice(where=parse_where(where), limit=1)

        def choose(choice: Choice = choice) -> object:
            return best_first(matching(registry, registry.entries(), choice), choice, node="node-0")

        yield _line(f"one of {INSTANCES} instances by {what}", choose)


def _asking() -> Iterator[str]:
    """Asks one of several agents for the least loaded node, first and then again and again."""
    names = [f"node-{number}" for number in range(AGENTS)]
    with (
        tempfile.TemporaryDirectory() as name,
        mesh(Path(name), *names, PMOVES_LEASE_TTL_S=str(TTL_S)) as (_, agents),
    ):
        for agent in agents:
            agent.register("whisper", capabilities=["stt"])
        time.sleep(TTL_S)
        first = {prefer: _time(agents[0], prefer) for prefer in ("local", "least_loaded", "nearest")}
        for prefer, first_ms in first.items():
            taken = sorted(_time(agents[0], prefer) for _ in range(ASKED))
            median_ms, worst_ms = statistics.median(taken), taken[int(ASKED * 0.99)]
            later = f"then median {median_ms:5.2f}, p99 {worst_ms:5.2f}"
            yield f"asked for {prefer:<12} at first {first_ms:6.2f} ms, {later}"


def _time(agent: Agent, prefer: str) -> float:
    body = msgspec.json.encode({"capabilities": ["stt"], "prefer": prefer})
    began = time.perf_counter()
    found = msgspec.json.decode(agent.ask("POST", "/api/discover", body))
    taken_ms = (time.perf_counter() - began) * 1000
    assert found["count"] == AGENTS
    return taken_ms


def _line(what: str, work: Callable[[], object], rounds: int = 20) -> str:
    taken = []
    for _ in range(rounds):
        began = time.perf_counter()
        work()
        taken.append((time.perf_counter() - began) * 1000)
    return f"{what:<52} median {statistics.median(taken):7.3f} ms, at most {max(taken):7.3f} ms"
