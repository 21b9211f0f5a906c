"""Booting with many instances: from the agent's own snapshot, and from the bucket, where all is verified."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Iterator

from benchmarks.agents import Agent
from benchmarks.filled import Stand
from benchmarks.measure import Figure, Target, figure
from benchmarks.memory import EACH
from benchmarks.processes import processor_s, resident_bytes, seconds_until

TITLE = "boot"
FROM_SNAPSHOT = Target(at_most=1.5)
FROM_BUCKET = Target(at_most=8)

_WITHIN_S = 120.0
_BUCKET_ROUNDS = 3


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    instances = stand.size.growth[-1]
    full = stand.filled(instances)
    agent = full.reader
    last = f"service-{instances - 1}"
    snapshot, current, bucket, used = [], [], [], []
    for _ in range(stand.size.rounds):
        answered, ready = _boot(agent, last)
        snapshot.append(answered)
        current.append(ready)
    for _ in range(min(_BUCKET_ROUNDS, stand.size.rounds)):
        agent.end(signal.SIGTERM)
        shutil.rmtree(agent.data)
        bucket.append(_boot(agent, last)[1])
        used.append(processor_s(agent.pid))
    among = f"with {instances:,} instances"
    yield figure(f"from the local snapshot to the first answer, {among}", "s", snapshot, target=FROM_SNAPSHOT)
    yield figure(f"from the local snapshot until it is current, {among}", "s", current)
    yield figure(f"from the bucket, verified, until it is current, {among}", "s", bucket, target=FROM_BUCKET)
    yield figure("processor of the agent for that", "s", used)
    each = (resident_bytes(agent.pid) - full.empty_bytes) / instances
    yield figure("memory of each instance after that", "KB", [each / 1e3], target=EACH)


def _boot(agent: Agent, service: str) -> tuple[float, float]:
    """Ends an agent, starts it, and returns the seconds until it answers, and until it is current."""
    agent.end(signal.SIGTERM)
    began = time.perf_counter()
    agent.launch()
    seconds_until(lambda: agent.knows(service), _WITHIN_S)
    answered = time.perf_counter() - began
    agent.wait_ready(_WITHIN_S)
    return answered, time.perf_counter() - began
