"""What `doctor` asks of NATS: its stream and buckets, how safe they are there, and the server's time."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final
from urllib.parse import urlsplit

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.cli.findings import Check, Complaint, Host
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import LEASES, bucket_stream
from pmoves_mesh.errors import ConfigError
from pmoves_mesh.log.survey import StreamFacts, Survey, survey
from pmoves_mesh.ports import Clock

MONITORING_PORTS: Final = (8222, 9223)
"""Where a nats-server's own account of itself is found: its usual port, and the one PMOVES publishes."""

_MONITORING_S: Final = 1.0
_SKEW_WARNING_S: Final = 1.0
_SKEW_ALARM_S: Final = 30.0
_CLUSTERED: Final = 3
_NANO: Final = 10**9
_SILENT_S: Final = 5.0
"""Servers that keep copies hear of one another every second."""

_ALWAYS: Final = "set sync_interval: always in the jetstream block of its configuration"
UNASKED: Final = Complaint("warning", "not checked: NATS could not be asked", "see NATS and JetStream")
MAKER: Final = "start the agent of the host that runs the nats-server: it makes what is missing"


def survey_of(config: Config, clock: Clock) -> Survey:
    """Asks the NATS of these settings how it is; never raises for what it answers, or does not."""
    try:
        return asyncio.run(survey(nats_settings(config), config.mesh, config.node, clock))
    except ConfigError as error:
        return Survey(problem=str(error), remedy=f"set {error.variable} anew")


def _jetstream(host: Host) -> Iterator[Complaint]:
    """NATS lets this node in, has JetStream, and in it the stream and the buckets."""
    found = host.nats
    if found.problem:
        # Where nothing answers at all, that is said of NATS.
        yield Complaint("alarm" if found.asked or found.refused else "warning", found.problem, found.remedy)
        return
    for name, facts in found.streams.items():
        if facts is None:
            yield Complaint("alarm", f"stream {name} is missing", MAKER)


def _durability(host: Host) -> Iterator[Complaint]:
    """What is acknowledged is on the disk, and on as many servers as there should be."""
    if not host.nats.asked:
        yield UNASKED
        return
    for name, facts in host.nats.streams.items():
        if facts is not None and name != bucket_stream(LEASES):
            yield from _kept(name, facts, host.nats.cluster)
    yield from _copies(host)
    if not host.config.embedded and host.config.nats_dir is None:
        yield from _synced(host)


def _kept(name: str, facts: StreamFacts, cluster: str) -> Iterator[Complaint]:
    """Looks at where one stream is kept.

    Source: NATS ADR-56 (`persist_mode`); docs.nats.io, "JetStream Clustering".
    """
    storage, replicas = facts.config.get("storage"), facts.config.get("num_replicas", 1)
    remake = f"as an operator: nats stream edit {name}"
    if storage != "file":
        yield Complaint("alarm", f"stream {name} is kept in {storage}: a restart loses it", remake)
    if facts.config.get("persist_mode") == "async":
        yield Complaint("alarm", f"stream {name} acknowledges before it writes (persist_mode async)", remake)
    if cluster and replicas < _CLUSTERED:
        yield Complaint(
            "warning",
            f"stream {name} is kept on {replicas} of the servers of cluster {cluster}: and goes with them",
            "once three servers are up, restart an agent that may change it: it then asks for three copies",
        )


def _copies(host: Host) -> Iterator[Complaint]:
    """Looks at the other servers that keep copies: each is heard of, and lacks nothing."""
    lacking: dict[str, list[str]] = {}
    silent: dict[str, float] = {}
    for name, facts in host.nats.streams.items():
        for copy in facts.cluster.replicas if facts and facts.cluster else ():
            if copy.offline or not copy.current:
                lacking.setdefault(copy.name, []).append(name)
            if copy.offline or copy.active / _NANO >= _SILENT_S:
                silent[copy.name] = max(silent.get(copy.name, 0.0), copy.active / _NANO)
    for server in sorted({*lacking, *silent}):
        state = f"was not heard of for {silent[server]:.0f} s" if server in silent else "is behind"
        yield Complaint(
            "alarm" if server in silent else "warning",
            f"server {server}, which keeps a copy of {', '.join(lacking.get(server, ['them']))}, {state}",
            "start it, and see that the servers of the cluster reach one another",
        )


def _synced(host: Host) -> Iterator[Complaint]:
    """Finds out whether a server that is not ours writes before it acknowledges, where it tells."""
    told = _monitoring(host)
    if told is None:
        yield Complaint(
            "warning",
            "the NATS server is not ours: whether it writes before it acknowledges cannot be seen from here",
            f"{_ALWAYS}; with http: 127.0.0.1:8222 in it too, this is seen on its host",
        )
    elif not told.get("sync_always"):
        every_s = told.get("sync_interval", 0) / _NANO
        yield Complaint(
            "alarm",
            f"the NATS server acknowledges up to {every_s:g} s before it writes: "
            "a power failure takes what it has promised",
            f"{_ALWAYS}, and restart it",
        )


def _monitoring(host: Host) -> dict[str, Any] | None:
    """Returns how JetStream is configured, if the very server that was asked tells.

    Source: docs.nats.io, "Monitoring NATS Server", `/jsz`.
    """
    for place in dict.fromkeys(urlsplit(url).hostname or "" for url in host.config.nats_servers):
        for port in MONITORING_PORTS:
            with suppress(OSError, http.client.HTTPException, ValueError, AttributeError):
                told = _get(place, port, "/jsz?config=true")
                if told.get("server_id") == host.nats.server_id:
                    return dict(told.get("config") or {})
    return None


def _get(host: str, port: int, path: str) -> Any:
    """Returns a JSON answer, asked for without any proxy."""
    connection = http.client.HTTPConnection(host, port, timeout=_MONITORING_S)
    try:
        connection.request("GET", path)
        return json.load(connection.getresponse())
    finally:
        connection.close()


def _clock(host: Host) -> Iterator[Complaint]:
    """This host's clock agrees with the server's, by the time that JetStream puts into its answers."""
    ahead_s = host.nats.ahead_s
    if ahead_s is None:
        yield UNASKED
        return
    off_s = abs(ahead_s)
    if off_s - host.nats.unsure_s >= _SKEW_WARNING_S:
        side = "ahead of" if ahead_s > 0 else "behind"
        yield Complaint(
            "alarm" if off_s >= _SKEW_ALARM_S else "warning",
            f"this host's clock is {off_s:.1f} s {side} that of the NATS server",
            "set the one that is wrong, by NTP: timedatectl set-ntp true",
        )


CHECKS: Final = (
    Check("JetStream", _jetstream, "there, with the mesh's stream and buckets"),
    Check("durability", _durability, "what is acknowledged is on the disk"),
    Check("clock", _clock, "agrees with the NATS server's"),
)
