"""Looking a service up by its name over HTTP, beside nginx, etcd and Consul, on one core.

Each is asked for the same services in the same order, through 32 connections. nginx serves what the agent
answers as static files; etcd keeps it as values; Consul holds services of the same names. The least that a
Python server can do is asked as well: it says how much of the time is the agent's own work.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from statistics import median

from benchmarks.filled import Filled, Stand, changing
from benchmarks.measure import Figure, Rounds, Target, absent, figure, interleaved, ratio
from benchmarks.peers import BARE, CONSUL, ETCD, NGINX, PREFIX, Peer, bare, consul, etcd_filled, nginx
from benchmarks.processes import alone
from benchmarks.wrk import Asking, get, missing

TITLE = "lookup by name over HTTP"
OF_NGINX = Target(at_least=0.4)
OF_ETCD = Target(at_least=5)
OF_CONSUL = Target(at_least=1)

_US = "pmoves-mesh"


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    if why := missing():
        yield absent("answers", "/s", why)
        return
    mesh = stand.filled(stand.size.services)
    names = [f"service-{number}" for number in range(mesh.instances)]
    bodies = answered(mesh.reader.port, [f"{PREFIX}{name}" for name in names])
    requests = [get(f"{PREFIX}{name}") for name in names]
    own = dict(zip(names, bodies, strict=True))
    with ExitStack() as stack:
        peers, absences = _peers(stand, stack, own, requests)
        asked = {_US: Asking(stand.folder(), mesh.reader.port, requests)}
        for name, peer in peers.items():
            asked[name] = Asking(stand.folder(), peer.port, peer.requests)
        stack.enter_context(alone([mesh.reader.pid, *(peer.pid for peer in peers.values())]))
        work: dict[str, Callable[[], float]] = {
            name: partial(one.rate, stand.size.seconds) for name, one in asked.items()
        }
        for per_second in stand.size.changes_per_s:
            work[f"{per_second}"] = partial(while_changing, mesh, asked[_US], stand.size.seconds, per_second)
        found = interleaved(stand.size.rounds, work)
    yield from _told(found, absences)


def answered(port: int, paths: Iterable[str]) -> list[bytes]:
    """Returns what an agent answers to each path."""
    connection, bodies = http.client.HTTPConnection("127.0.0.1", port, timeout=10), []
    for path in paths:
        connection.request("GET", path)
        response = connection.getresponse()
        bodies.append(response.read())
        assert response.status == 200, path
    connection.close()
    return bodies


def whole(body: bytes) -> bytes:
    """Returns an answer with the headers that a server cannot do without."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _peers(
    stand: Stand, stack: ExitStack, bodies: dict[str, bytes], requests: list[bytes]
) -> tuple[dict[str, Peer], dict[str, str]]:
    """Returns those that run, and why the others do not."""
    longest = whole(max(bodies.values(), key=len))
    possible: dict[str, Callable[[], AbstractContextManager[Peer]]] = {
        NGINX: lambda: nginx(stand.folder(), bodies),
        ETCD: lambda: etcd_filled(stand.folder(), bodies),
        CONSUL: lambda: consul(stand.folder(), bodies),
        BARE: lambda: bare(stand.folder(), longest, requests),
    }
    running, absences = {}, {}
    for name, start in possible.items():
        try:
            running[name] = stack.enter_context(start())
        except FileNotFoundError as error:
            absences[name] = str(error)
    return running, absences


def while_changing(mesh: Filled, asked: Asking, seconds: float, per_second: float) -> float:
    """Returns how many answers a second come while the registry changes so often."""
    with changing(mesh.writer, per_second):
        return asked.rate(seconds)


def _told(found: dict[str, Rounds], absences: dict[str, str]) -> Iterator[Figure]:
    mine = found[_US]
    beside: dict[str, float | str] = {
        name: median(found[name]) if name in found else absences[name] for name in (NGINX, ETCD, CONSUL, BARE)
    }
    yield figure("answers", "/s", mine, beside=beside)
    for name, target in ((NGINX, OF_NGINX), (ETCD, OF_ETCD), (CONSUL, OF_CONSUL), (BARE, None)):
        what = f"as many as {name}"
        if name in found:
            yield ratio(what, mine, found[name], target)
        else:
            yield absent(what, "times", absences[name], target)
    for per_second in (name for name in found if name.isdigit()):
        rounds = found[per_second]
        what = f"while the registry changes {per_second} times a second"
        kept = median(rounds) / median(mine)
        yield figure(what, "/s", rounds, note=f"{kept:.2f} of those without")
