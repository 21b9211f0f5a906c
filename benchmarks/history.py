"""How soon any moment of a long stream is told, and what a discovery feels of it.

The stream is real: each event is signed and verified, 50 nodes with 10,000 instances in all. `python -m
benchmarks history 1000000` takes some twenty minutes on two cores, most of them to make the checkpoints.
"""

from __future__ import annotations

import asyncio
import http.client
import secrets
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.agents import Agent, Server
from benchmarks.mesh import MESH, Mesh
from benchmarks.processes import seconds_until
from pmoves_mesh.agent.history.desk import HistoryDesk
from pmoves_mesh.agent.history.frames import Setup
from pmoves_mesh.core.history import EventsWanted, KeepUpTo, NodesAt, Question, Selection, ServicesAt
from pmoves_mesh.core.moments import Moment
from pmoves_mesh.core.query import Filter
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.topology import IDENTITIES, ensure
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import write_certificate, write_key

EVENTS: Final = 1_000_000
INSTANCES: Final = 10_000
QUESTIONS: Final = 20
LOOKUPS: Final = 2000
REPLAYED: Final = 40_000

_random: Final = secrets.SystemRandom()
_WINDOW: Final = 4000
_GIB: Final = 2**30


def run(events: float = EVENTS) -> Iterator[str]:
    """Yields lines with the figures.

    Args:
        events: how many the stream holds.
    """
    mesh = Mesh()
    with _server() as (folder, server):
        yield from asyncio.run(_moments(folder, server, mesh, int(events)))
    with _server() as (folder, server):
        yield from _discovery(folder, server, mesh)


@contextmanager
def _server() -> Iterator[tuple[Path, Server]]:
    with tempfile.TemporaryDirectory(prefix="history-") as name:
        server = Server(Path(name), sync="2m")
        server.start()
        try:
            yield Path(name), server
        finally:
            server.kill()


def _setup(folder: Path, server: Server, mesh: Mesh) -> Setup:
    """Writes what a node has on its disk, and returns who tells of the past in its name."""
    tls, identity = folder / "tls", folder / "identity"
    tls.mkdir()
    identity.mkdir()
    certificate, key = identity / keystore.IDENTITY_CERTIFICATE, identity / keystore.IDENTITY_KEY
    write_certificate(tls / keystore.CA_CERTIFICATE, mesh.trust.roots[0])
    write_certificate(certificate, mesh.identities[0].certificate)
    write_key(key, mesh.identities[0].key)
    return Setup(
        mesh=MESH,
        node="node-0",
        nats=NatsSettings(servers=(server.url,)),
        tls_dir=tls,
        certificate=certificate,
        key=key,
        accept_unsigned=False,
    )


async def _moments(folder: Path, server: Server, mesh: Mesh, events: int) -> Iterator[str]:
    lines = []
    setup = _setup(folder, server, mesh)
    await _prepare(server, mesh)
    rate = await asyncio.to_thread(_publish, server, mesh, events)
    lines.append(_line("events signed and put into the stream", f"{rate:,.0f} a second"))
    desk = HistoryDesk(setup)
    running = asyncio.create_task(desk.run())
    try:
        took_s, _ = await _asked(desk, ServicesAt(at=_at(min(events, REPLAYED)), wanted=Filter()))
        lines.append(
            _line("events verified and folded in", f"{min(events, REPLAYED) / took_s:,.0f} a second")
        )
        took_s, made = await _asked(desk, KeepUpTo(position=events))
        lines.append(_line(f"checkpoints made ({made.count(b',') + 1})", f"{took_s:,.0f} s"))
        chosen = [_random.randint(1, events) for _ in range(QUESTIONS)]
        for what, question in (
            ("the whole registry at a moment (JSON)", lambda at: ServicesAt(at=at, wanted=Filter())),
            ("one service at a moment", lambda at: ServicesAt(at=at, wanted=Filter(name="service-7"))),
            ("all nodes at a moment", lambda at: NodesAt(at=at)),
        ):
            taken = [(await _asked(desk, question(_at(position))))[0] for position in chosen]
            lines.append(_figures(what, taken))
        wanted = [
            EventsWanted(selection=Selection(), before=position, newest_first=True) for position in chosen
        ]
        taken = [(await _asked(desk, one))[0] for one in wanted]
        lines.append(_figures("a page of 100 events", taken))
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    return iter(lines)


async def _prepare(server: Server, mesh: Mesh) -> None:
    async with Connection(NatsSettings(servers=(server.url,))) as connection:
        await connection.wait_connected(5.0)
        await ensure(connection, MESH, mesh.trust.root_fingerprints, max_bytes=16 * _GIB)
        identities = NatsBucket(connection, IDENTITIES)
        for one in mesh.identities:
            await identities.put(one.fingerprint, one.certificate_der)


async def _asked(desk: HistoryDesk, question: Question) -> tuple[float, bytes]:
    began = time.perf_counter()
    told = await desk.ask(question)
    return time.perf_counter() - began, told.body


def _at(position: int) -> Moment:
    return Moment(field="at", position=position)


def _publish(server: Server, mesh: Mesh, events: int) -> float:
    """Puts so many events into the stream, and returns how many a second that were."""
    began, waiting, rest = time.perf_counter(), 0, b""
    with socket.create_connection(("127.0.0.1", server.port)) as line:
        line.sendall(b'CONNECT {"verbose":false,"headers":true,"no_responders":true}\r\nSUB ack 1\r\n')
        for index in range(events):
            sealed = mesh.sealed(index % INSTANCES, index + 1)
            head = b"NATS/1.0\r\n%b\r\n" % b"".join(
                b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in sealed.headers.items()
            )
            size = len(head) + len(sealed.payload)
            line.sendall(
                b"HPUB %b ack %d %d\r\n%b%b\r\n"
                % (sealed.subject.encode(), len(head), size, head, sealed.payload)
            )
            waiting += 1
            while waiting >= _WINDOW or (waiting and index == events - 1):
                *whole, rest = (rest + line.recv(1 << 16)).split(b"\r\n")
                waiting -= sum(part.startswith(b"MSG ack") for part in whole)
                if b"PING" in whole:
                    line.sendall(b"PONG\r\n")
    return events / (time.perf_counter() - began)


def _discovery(folder: Path, server: Server, mesh: Mesh) -> Iterator[str]:
    """Measures look-ups while the agent that answers them tells of the past."""
    _setup(folder, server, mesh)
    asyncio.run(_prepare(server, mesh))
    _publish(server, mesh, REPLAYED)
    settings = {"NATS_URL": server.url, "PMOVES_MESH_NAME": MESH}
    agent = Agent(folder, "node-0", settings)
    own = folder / "node-0" / "identity"
    own.parent.mkdir()
    (folder / "identity").rename(own)
    try:
        agent.start()
        seconds_until(lambda: agent.status("/api/services/service-7") == 200, 120)
        yield _figures("a look-up, nothing else under way", _looked_up(agent))
        past = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=60)
        past.request("GET", f"/api/services?at={REPLAYED - 1}&name=service-7")
        taken = _looked_up(agent)
        yield _figures(f"a look-up while {REPLAYED:,} events are replayed", taken)
        answer = past.getresponse()
        found = msgspec.json.decode(answer.read(), type=dict[str, object])
        yield _line("of which the replay found instances", str(found["count"]))
    finally:
        agent.end()


def _looked_up(agent: Agent) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=10)
    taken = []
    for _ in range(LOOKUPS):
        began = time.perf_counter()
        connection.request("GET", "/api/services/service-7")
        connection.getresponse().read()
        taken.append(time.perf_counter() - began)
    connection.close()
    return taken


def _figures(what: str, taken: list[float]) -> str:
    ordered = sorted(taken)
    p99 = ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]
    median, worst = statistics.median(ordered), ordered[-1]
    return _line(
        what, f"median {median * 1e3:8.1f} ms   p99 {p99 * 1e3:8.1f} ms   worst {worst * 1e3:8.1f} ms"
    )


def _line(what: str, found: str) -> str:
    return f"{what:<52} {found}"
