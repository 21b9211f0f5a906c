"""What JetStream says of itself and of the mesh's stream and buckets: a few questions, and no change.

Source: NATS ADR-1 (JetStream JSON API: STREAM.INFO, with `cluster` and `ts`).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from pmoves_mesh.core.names import EVENTS, IDENTITIES, LEASES, REGISTRY, bucket_stream
from pmoves_mesh.errors import LogError, RightMissing
from pmoves_mesh.log import api
from pmoves_mesh.log.api import Refused, StreamState, call
from pmoves_mesh.log.application import Standing, standings
from pmoves_mesh.log.bucket import NatsBucket
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.session import Session
from pmoves_mesh.ports import Clock

STREAMS: Final = (EVENTS, *map(bucket_stream, (REGISTRY, IDENTITIES, LEASES)))

_CONNECT_S: Final = 2.5
_INFO_S: Final = 1.0
_GREETING: Final = "see that it runs and may be reached, and that its certificate and login hold"
_ENABLE: Final = "add a jetstream block with sync_interval: always to its configuration"
_CUT_OFF: Final = "see that the servers of the cluster reach one another"


class ReplicaFacts(Struct, frozen=True):
    """Another server that keeps a copy of a stream.

    Attributes:
        active: nanoseconds since the leader last heard of it.
        lag: how many operations it lacks.
    """

    name: str
    current: bool = False
    offline: bool = False
    active: int = 0
    lag: int = 0


class ClusterFacts(Struct, frozen=True):
    """Which servers keep a stream.

    Attributes:
        leader: empty while there is none.
        replicas: the others.
    """

    leader: str = ""
    replicas: tuple[ReplicaFacts, ...] = ()


class StreamFacts(Struct, frozen=True):
    """A stream as the server describes it.

    Attributes:
        config: all that is configured, as JSON has it.
        ts: the server's time when it answered.
    """

    config: dict[str, Any]
    state: StreamState
    cluster: ClusterFacts | None = None
    ts: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What was found.

    Attributes:
        asked: whether NATS could be asked at all.
        refused: whether that is because it does not let us in.
        problem: why not, or what it refuses; empty if nothing is wrong.
        remedy: what to do about that.
        server_id: of the server.
        cluster: the name of its cluster; empty if it stands alone.
        streams: the mesh's stream and those behind its buckets, by name; None for one that is not there.
        ahead_s: by how many seconds this host's clock is ahead of the server's; None if it did not say.
        unsure_s: how far that may be off.
        applications: who keeps what applications tell; empty if that could not be asked.
        lease: the value of this node's lease; empty if there is none, None if it could not be asked for.
    """

    asked: bool = False
    refused: bool = False
    problem: str = ""
    remedy: str = ""
    server_id: str = ""
    cluster: str = ""
    streams: dict[str, StreamFacts | None] = field(default_factory=dict)
    applications: tuple[Standing, ...] = ()
    ahead_s: float | None = None
    unsure_s: float = 0.0
    lease: bytes | None = None


async def survey(settings: NatsSettings, mesh: str, node: str, clock: Clock) -> Survey:
    """Asks the NATS of the settings; never raises for what it answers, or does not.

    Args:
        settings: where it is, and how to log in.
        mesh: whose streams are looked for.
        node: whose lease is looked for.
        clock: this host's time.
    """
    try:
        async with Connection(settings) as connection:
            await connection.wait_connected(_CONNECT_S)
            return await _ask(connection, mesh, node, clock)
    except RightMissing as error:
        return Survey(refused=True, problem=f"missing right: {error.right}", remedy=error.remedy)
    except LogError as error:
        return Survey(problem=str(error), remedy=_GREETING)


async def _ask(connection: Connection, mesh: str, node: str, clock: Clock) -> Survey:
    session = connection.session()
    info = session.info
    known = Survey(asked=True, server_id=str(info.get("server_id", "")), cluster=str(info.get("cluster", "")))
    if not info.get("jetstream"):
        problem = f"JetStream is not enabled on {session.url}"
        return replace(known, problem=problem, remedy=_ENABLE)
    streams: dict[str, StreamFacts | None] = {}
    skews: list[tuple[float, float]] = []
    try:
        for name in STREAMS:
            begin_s, begin_ms = clock.monotonic_s(), clock.now_ms()
            streams[name] = found = await _describe(session, name)
            took_s = clock.monotonic_s() - begin_s
            if found is not None and found.ts is not None:
                skews.append((took_s / 2, begin_ms / 1000 + took_s / 2 - found.ts.timestamp()))
        lease = await _lease(connection, node) if streams[bucket_stream(LEASES)] else b""
        applications = await standings(connection, mesh)
    except RightMissing as error:
        return replace(known, problem=f"missing right: {error.right}", remedy=error.remedy)
    except LogError as error:
        return replace(known, problem=str(error), remedy=_CUT_OFF, streams=streams)
    # The quickest answer tells the time best.
    unsure_s, ahead_s = min(skews) if skews else (0.0, None)
    told = replace(known, streams=streams, applications=applications, lease=lease)
    return replace(told, ahead_s=ahead_s, unsure_s=unsure_s)


async def _describe(session: Session, name: str) -> StreamFacts | None:
    try:
        return await call(session, f"STREAM.INFO.{name}", StreamFacts, timeout_s=_INFO_S)
    except Refused as error:
        if error.err_code == api.STREAM_NOT_FOUND:
            return None
        raise


async def _lease(connection: Connection, node: str) -> bytes | None:
    try:
        entry = await NatsBucket(connection, LEASES).get(node)
    except LogError:
        return None
    return b"" if entry is None else entry.value
