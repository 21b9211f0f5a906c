"""How many registrations many clients get into one agent, and from there to another, with fsync."""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import msgspec

from benchmarks.agents import mesh
from benchmarks.filled import CLIENTS, Stand, ask_all, fill, record
from benchmarks.measure import Figure, Target, figure, interleaved, rate
from benchmarks.peers import ETCD, etcd, etcd_body
from benchmarks.processes import seconds_until
from benchmarks.wrk import post

TITLE = "registrations, many clients"
A_SECOND = Target(at_least=3_000)
ROUNDS = 3


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    found = interleaved(
        min(ROUNDS, stand.size.rounds), {"mine": lambda: _visible(stand), ETCD: lambda: _put(stand)}
    )
    note = f"{stand.size.crowd:,} by {CLIENTS} clients, who share the cores with agents and server"
    theirs = median(found[ETCD]) if found[ETCD][0] else "etcd is not on PATH"
    beside = {ETCD: theirs}
    yield figure("visible on the other agent", "/s", found["mine"], target=A_SECOND, beside=beside, note=note)


def _visible(stand: Stand) -> float:
    """Returns how many a second are seen on an agent that they were not made on."""
    count = stand.size.crowd
    with mesh(stand.folder(), "one", "two") as (_, (one, two)):
        began = time.perf_counter()
        fill(one, (record(number, count) for number in range(count)))
        seconds_until(lambda: two.knows(f"service-{count - 1}"))
        return count / (time.perf_counter() - began)


def _put(stand: Stand) -> float:
    """Returns how many a second etcd takes; 0 if it is not there."""
    count = stand.size.crowd
    bodies = (msgspec.json.encode(record(number, count)) for number in range(count))
    try:
        with etcd(stand.folder()) as peer:
            requests = (
                post("/v3/kv/put", etcd_body(f"service-{number}", value=body))
                for number, body in enumerate(bodies)
            )
            return rate(lambda: ask_all(peer.port, requests), count)
    except FileNotFoundError:
        return 0.0
