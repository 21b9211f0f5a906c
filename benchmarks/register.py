"""From registering a service until it is visible on another agent; beside etcd, from put to watch event.

One at a time, with fsync, in turn. It is visible once the other agent, asked again and again from the moment
of the answer on, tells where it is. A watcher in another process waits for the other agent's event, which
gathers what changes within 5 ms, and for etcd's.
"""

from __future__ import annotations

import http.client
import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import NamedTuple

import msgspec

from benchmarks.agents import mesh
from benchmarks.filled import Stand
from benchmarks.measure import Figure, Target, figure, percentile
from benchmarks.peers import ETCD, etcd, etcd_body
from benchmarks.wrk import get, post

TITLE = "register, from POST to visible on another agent"
P50 = Target(at_most=3)
P99 = Target(at_most=10)

_WITHIN_S = 10.0
_WARM_UP = 20


class _Times(NamedTuple):
    """Milliseconds from the request: until it was answered, visible elsewhere, and told to a watcher."""

    answered: float
    visible: float
    told: float


def run(stand: Stand) -> Iterator[Figure]:
    """Yields the figures."""
    mine, theirs, why = [], [], ""
    with ExitStack() as stack:
        _, (one, two) = stack.enter_context(mesh(stand.folder(), "one", "two"))
        watching = stack.enter_context(_told_of(two.port, get("/api/watch"), b"event: added"))
        writer = http.client.HTTPConnection("127.0.0.1", one.port, timeout=_WITHIN_S)
        reader = http.client.HTTPConnection("127.0.0.1", two.port, timeout=_WITHIN_S)
        other = None
        try:
            peer = stack.enter_context(etcd(stand.folder()))
            create = {"create_request": {"key": "AA==", "range_end": "AA=="}}
            request = post("/v3/watch", msgspec.json.encode(create))
            seen = stack.enter_context(_told_of(peer.port, request, b'"kv"'))
            other = http.client.HTTPConnection("127.0.0.1", peer.port, timeout=_WITHIN_S)
        except FileNotFoundError as error:
            why = str(error)
        for number in range(_WARM_UP + stand.size.registrations):
            body = msgspec.json.encode({"name": f"service-{number}", "host": "127.0.0.1", "port": 9000})
            seen_at = (reader, f"/api/services/service-{number}")
            mine.append(_timed(writer, ("POST", "/api/services", body), watching, seen_at))
            if other is not None:
                put = etcd_body(f"service-{number}", value=body)
                theirs.append(_timed(other, ("POST", "/v3/kv/put", put), seen))
    del mine[:_WARM_UP], theirs[:_WARM_UP]
    for percent, target in ((50, P50), (99, P99)):
        beside = {ETCD: percentile([each.told for each in theirs], percent) if theirs else why}
        visible = percentile([each.visible for each in mine], percent)
        what = f"until visible on the other agent, p{percent}"
        yield figure(what, "ms", [visible], target=target, beside=beside, note=f"of {len(mine)}")
    for percent in (50, 99):
        told = percentile([each.told for each in mine], percent)
        yield figure(f"until a watcher of the other agent is told, p{percent}", "ms", [told])
    for percent in (50, 99):
        beside = {ETCD: percentile([each.answered for each in theirs], percent) if theirs else why}
        answered = percentile([each.answered for each in mine], percent)
        yield figure(f"until answered, p{percent}", "ms", [answered], beside=beside)


def _timed(
    writer: http.client.HTTPConnection,
    request: tuple[str, str, bytes],
    told: Connection,
    seen: tuple[http.client.HTTPConnection, str] | None = None,
) -> _Times:
    began = time.perf_counter()
    writer.request(*request)
    response = writer.getresponse()
    said = response.read()
    answered = time.perf_counter()
    if response.status != 200:
        raise RuntimeError(said.decode()[:200])
    while seen is not None and not _is_there(*seen):
        pass
    visible = time.perf_counter()
    if not told.poll(_WITHIN_S):
        raise RuntimeError(f"nobody was told within {_WITHIN_S:g} s")
    return _Times(*(1000 * (moment - began) for moment in (answered, visible, told.recv())))


def _is_there(reader: http.client.HTTPConnection, path: str) -> bool:
    reader.request("GET", path)
    response = reader.getresponse()
    response.read()
    return response.status == 200


@contextmanager
def _told_of(port: int, request: bytes, mark: bytes) -> Iterator[Connection]:
    """Gives what tells when another process reads a mark in the answer to a request that never ends."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_listen, args=(port, request, mark, there))
    process.start()
    try:
        if not here.poll(_WITHIN_S) or here.recv() != 0.0:
            raise RuntimeError("the watcher is not answered")
        yield here
    finally:
        process.terminate()
        process.join()


def _listen(port: int, request: bytes, mark: bytes, to: Connection) -> None:
    """Sends 0 when the answer begins, and the time of each mark in it; all processes have that clock."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(request)
        held = connection.recv(65_536)
        to.send(0.0)
        while True:
            if mark in held:
                now = time.perf_counter()
                for _ in range(held.count(mark)):
                    to.send(now)
                held = b""
            got = connection.recv(65_536)
            if not got:
                return
            held = held[-len(mark) :] + got
