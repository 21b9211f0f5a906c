"""How large a mesh may be: what each agent costs at rest, and how soon a change reaches all of them.

Whole agents in a few processes on one server, each with a connection of its own.
"""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.agents import Server
from benchmarks.crowd import Crowd
from benchmarks.filled import Stand
from benchmarks.measure import Figure, Target, figure, percentile
from benchmarks.processes import processor_s, resident_bytes
from benchmarks.watchers import Watchers

TITLE = "mesh size"
FLAT = Target(at_most=1.2)
WITHIN = Target(at_most=250)
PROCESSES = 4

_WINDOWS = 3
_WINDOWS_MAX = 12
_STILL_FALLS = 0.9
_PAUSE_S = 0.3
_ANSWER_S = 10.0
_SERVICE = "reach"
_MB = 1e6
_SHARE = "% of a core"


class AtRest(NamedTuple):
    """What a mesh of so many agents takes while nothing happens, for each agent; and how soon all know.

    Attributes:
        percent: of a core.
        server_percent: of a core, taken by the server.
        bytes: of memory, the interpreters' with it.
        server_bytes: of the server's memory.
        messages_per_s: to and from the server.
        bytes_per_s: likewise.
        reached_ms: how soon all were told of each of some changes.
        reached_half_ms: how soon half of them were.
        change_ms: of processor that an agent took for a change beyond that, telling its watcher included.
    """

    percent: float
    server_percent: float
    bytes: float
    server_bytes: float
    messages_per_s: float
    bytes_per_s: float
    reached_ms: list[float]
    reached_half_ms: list[float]
    change_ms: float


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    size = stand.size
    found: dict[int, AtRest] = {}
    for agents in size.agents:
        found[agents] = one = at_rest(
            stand.folder(), agents, settle_s=size.settle_s, idle_s=size.idle_s / 2, reaches=size.reaches
        )
        yield figure(
            f"an agent among {agents} at rest",
            _SHARE,
            [one.percent],
            sizes=("each agent at rest", agents),
            note=f"{one.server_percent:.3f} % of the nats-server beside it; {one.bytes / _MB:.0f} MB each; "
            f"{one.messages_per_s:.1f} messages a second",
        )
        yield figure(
            f"a change has reached all {agents}",
            "ms",
            one.reached_ms,
            target=WITHIN if agents == max(size.agents) else None,
            sizes=("a change has reached all", agents),
            note=f"the worst of {len(one.reached_ms)}: {percentile(one.reached_ms, 100):.0f} ms; "
            f"{one.change_ms:.2f} ms of processor at each",
        )
        yield figure(
            f"a change has reached half of {agents}",
            "ms",
            one.reached_half_ms,
            sizes=("a change has reached half", agents),
        )
    # What takes less than a tick of the clock in all is not seen to take anything.
    least = 1 / (size.idle_s * min(found))
    for what, taken, target in (
        ("an agent at rest", {n: one.percent for n, one in found.items()}, FLAT),
        (
            "with its part of the nats-server",
            {n: one.percent + one.server_percent for n, one in found.items()},
            None,
        ),
    ):
        for agents in sorted(found)[1:]:
            grown = taken[agents] / max(taken[min(found)], least)
            against = f"{what}, among {agents} against {min(found)}"
            yield figure(against, "times", [grown], target=target if agents == max(found) else None)


def at_rest(folder: Path, agents: int, *, settle_s: float, idle_s: float, reaches: int) -> AtRest:
    """Measures a mesh at rest, and how soon a change at one agent is told by every other.

    Args:
        folder: where their files are.
        agents: how many.
        settle_s: how long they first come to rest, at least; four times as long at most.
        idle_s: how long they are watched.
        reaches: how many changes.
    """
    server = Server(folder)
    server.start()
    try:
        with Crowd(server, folder, agents, min(PROCESSES, agents)) as crowd:
            _come_to_rest(crowd, settle_s / _WINDOWS)
            used, server_used, carried = crowd.processor_s(), processor_s(server.pid), server.carried()
            time.sleep(idle_s)
            used, server_used = crowd.processor_s() - used, processor_s(server.pid) - server_used
            then = server.carried()
            memory, held = crowd.resident_bytes(), resident_bytes(server.pid)
            with ExitStack() as stack:
                post_service(crowd.ports[0], _body(0))
                watchers = Watchers(stack, crowd.ports, f"?name={_SERVICE}")
                before_s, began_s = crowd.processor_s(), time.perf_counter()
                told = [_told_s(crowd, watchers, number) for number in range(1, reaches + 1)]
                changed_s = crowd.processor_s() - before_s
                # What they take at rest is no part of what a change costs.
                changed_s -= used / idle_s * (time.perf_counter() - began_s)
    finally:
        server.kill()
    messages, sent = ((then[side] - carried[side]) / idle_s / agents for side in (0, 1))
    percent = 100 / idle_s / agents
    return AtRest(
        percent=used * percent,
        server_percent=server_used * percent,
        bytes=memory / agents,
        server_bytes=held / agents,
        messages_per_s=messages,
        bytes_per_s=sent,
        reached_ms=[1000 * one[-1] for one in told],
        reached_half_ms=[1000 * statistics.median(one) for one in told],
        change_ms=1000 * changed_s / reaches / agents,
    )


def _come_to_rest(crowd: Crowd, window_s: float) -> None:
    """Waits until the agents take no less and less of the processor: a newcomer looks around first."""
    rates = [float("inf")]
    for _ in range(_WINDOWS_MAX):
        used, began_s = crowd.processor_s(), time.perf_counter()
        time.sleep(window_s)
        rates.append((crowd.processor_s() - used) / (time.perf_counter() - began_s))
        if len(rates) > _WINDOWS and rates[-1] >= _STILL_FALLS * rates[-2]:
            return


def _told_s(crowd: Crowd, watchers: Watchers, number: int) -> list[float]:
    """Changes a service; returns after how many seconds each agent told its watcher, the first first."""
    time.sleep(_PAUSE_S)
    connection = http.client.HTTPConnection("127.0.0.1", crowd.ports[0], timeout=_ANSWER_S)
    connection.connect()
    began_s = time.perf_counter()
    connection.request("POST", "/api/services", _body(number))
    times = watchers.read(b"event: changed", b"\n\n")
    assert connection.getresponse().status == 200
    connection.close()
    return [told_s - began_s for told_s in times]


def _body(number: int) -> bytes:
    return msgspec.json.encode({"name": _SERVICE, "id": "1", "host": "127.0.0.1", "port": 9000 + number})


def post_service(port: int, body: bytes) -> None:
    """Registers a service at an agent.

    Raises:
        RuntimeError: if it is refused.
    """
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_S)
    try:
        connection.request("POST", "/api/services", body)
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(response.read().decode())
    finally:
        connection.close()
