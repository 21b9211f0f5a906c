"""The memory of an agent: with nothing in its registry, and for each instance in it."""

from __future__ import annotations

import signal
from collections.abc import Iterator

from benchmarks.agents import mesh
from benchmarks.filled import Stand
from benchmarks.measure import Figure, Target, figure
from benchmarks.processes import free_port, resident_bytes

TITLE = "memory"
EMPTY = Target(at_most=60)
EACH = Target(at_most=2.5)

_MB = 1e6
_KB = 1e3


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    with mesh(stand.folder(), "one") as (_, (agent,)):
        empty = resident_bytes(agent.pid)
    with mesh(stand.folder(), "one", PMOVES_DNS_PORT=str(free_port())) as (_, (agent,)):
        naming = resident_bytes(agent.pid)
    instances = stand.size.growth[-1]
    full = stand.filled(instances)
    each = (full.full_bytes - full.empty_bytes) / instances
    full.reader.end(signal.SIGTERM)
    full.reader.start()
    booted = (resident_bytes(full.reader.pid) - empty) / instances
    yield figure("an agent with an empty registry", "MB", [empty / _MB], target=EMPTY)
    yield figure("an agent with an empty registry that answers DNS", "MB", [naming / _MB])
    yield figure(f"each of {instances:,} instances, told one by one", "KB", [each / _KB], target=EACH)
    yield figure(f"each of {instances:,} instances, from the snapshot", "KB", [booted / _KB], target=EACH)
