"""Resolving in the SDK: choosing one of 20 instances in a program's own memory."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.filled import Stand
from benchmarks.measure import Figure, Target, figure, interleaved, rate
from pmoves_mesh.config import load
from pmoves_mesh.sdk.instance import Instance
from pmoves_mesh.sdk.mesh import Mesh, Terms

TITLE = "resolve in the SDK"
A_SECOND = Target(at_least=500_000)
INSTANCES = 20
FAILING = 3
DNS = "getaddrinfo of localhost"

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


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    count = stand.size.resolves
    equal = mesh_of([instance("rag", number) for number in range(INSTANCES)])
    instances = [instance("rag", number, weight=number + 1) for number in range(INSTANCES)]
    weighted, failing = mesh_of(instances), mesh_of(instances)

    def use() -> None:
        with equal.using("rag"):
            pass

    found = interleaved(
        stand.size.rounds,
        {
            "equal": lambda: _rate(lambda: equal.resolve("rag"), count),
            "weighted": lambda: _rate(lambda: weighted.resolve("rag"), count),
            "failing": lambda: _rate_with_failures(failing, instances[:FAILING], count),
            "using": lambda: _rate(use, count),
            DNS: lambda: _rate(lambda: socket.getaddrinfo("localhost", 80), count // 100),
        },
    )
    beside = {DNS: median(found[DNS])}
    yield figure("with weights and penalties", "/s", found["failing"], target=A_SECOND, beside=beside)
    yield figure("with weights", "/s", found["weighted"], target=A_SECOND)
    yield figure("all alike", "/s", found["equal"])
    yield figure("`using`, which also learns from each use", "/s", found["using"])


def instance(name: str, number: int, **metadata: Any) -> Instance:
    """Returns the instance of this number."""
    own: dict[str, Any] = {"name": name, "id": str(number), "node": f"node-{number % 50}"}
    return Instance(**own, **_FIELDS, host="10.0.0.1", port=8086, metadata=metadata)


def mesh_of(instances: list[Instance]) -> Mesh:
    """Returns what a program holds of a mesh, without an agent."""
    mesh = Mesh(Terms(config=load({}, Path.cwd())))
    mesh._directory.replace(instances, 1)  # noqa: SLF001 - nothing but the memory is measured
    return mesh


def _rate(work: Callable[[], object], count: int) -> float:
    def repeated() -> None:
        for _ in range(count):
            work()

    return rate(repeated, count)


def _rate_with_failures(mesh: Mesh, instances: list[Instance], count: int) -> float:
    """Measures while some instances have just failed, and are passed over for a second or more."""
    for one in instances:
        mesh.failed(one)
    return _rate(lambda: mesh.resolve("rag"), count)
