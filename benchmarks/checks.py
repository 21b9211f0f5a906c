"""One agent with a thousand HTTP checks of ten seconds: what it takes, and whether it keeps to them."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from benchmarks.agents import mesh
from benchmarks.idle import INTERVAL_S, service, with_checks
from benchmarks.processes import processor_s

CHECKS = 1000
WARM_UP_S = 30.0
MEASURED_S = 60.0


def run() -> Iterator[str]:
    """Yields lines with the figures; takes about two minutes."""
    with (
        tempfile.TemporaryDirectory() as name,
        service() as (port, asked),
        mesh(Path(name), "one") as (_, (agent,)),
    ):
        with_checks(agent, port, CHECKS)
        time.sleep(WARM_UP_S)
        asked.clear()
        began, before_s = time.perf_counter(), processor_s(agent.pid)
        time.sleep(MEASURED_S)
        used = (processor_s(agent.pid) - before_s) / (time.perf_counter() - began)
    pauses = [later - earlier for times in asked.values() for earlier, later in pairwise(times)]
    late = sorted(pause - INTERVAL_S * 1.1 for pause in pauses)
    yield f"{CHECKS} HTTP checks of {INTERVAL_S:g} s, one agent: {100 * used:.1f} % of a core"
    yield (
        f"{len(pauses)} pauses between probes of one instance: median {statistics.median(pauses):.2f} s, "
        f"{min(pauses):.2f} to {max(pauses):.2f} s; {sum(one > 0.5 for one in late)} more than 0.5 s too late"
    )
