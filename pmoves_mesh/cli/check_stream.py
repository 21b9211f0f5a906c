"""What `doctor` asks of NATS: the stream and its buckets, the server's time, and what this node has there."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from time import sleep
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.agent.trust.trusted import identity_files
from pmoves_mesh.cli.check_agent import TIMEOUT_S, ask_agent
from pmoves_mesh.cli.console import cell
from pmoves_mesh.cli.findings import AgentState, Check, Complaint, Host
from pmoves_mesh.cli.streams import shown_here
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.lease import unseal
from pmoves_mesh.core.names import EVENTS, LEASES, bucket_stream
from pmoves_mesh.core.query import instance_view, node_view
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import ConfigError, LogError, PkiError, RemoteProtocolError
from pmoves_mesh.log.survey import StreamFacts, Survey, survey
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates
from pmoves_mesh.ports import Clock

MONITORING_PORTS: Final = (8222, 9223)
"""Where a nats-server's own account of itself is found: its usual port, and the one PMOVES publishes."""

_MONITORING_S: Final = 1.0
_SKEW_WARNING_S: Final = 1.0
_SKEW_ALARM_S: Final = 30.0
_CATCH_UP_S: Final = 3.0
_POLL_S: Final = 0.2
_CLUSTERED: Final = 3
_NANO: Final = 10**9
_SILENT_S: Final = 5.0
"""Servers that keep copies hear of one another every second."""

_ALWAYS: Final = "set sync_interval: always in the jetstream block of its configuration"
_UNASKED: Final = Complaint("warning", "not checked: NATS could not be asked", "see NATS and JetStream")
_MAKER: Final = "start the agent of the host that runs the nats-server: it makes what is missing"


def survey_of(config: Config, clock: Clock) -> Survey:
    """Asks the NATS of these settings how it is; never raises for what it answers, or does not."""
    try:
        return asyncio.run(survey(nats_settings(config), config.mesh, config.node, clock))
    except ConfigError as error:
        return Survey(problem=str(error), remedy=f"set {error.variable} anew")


def told_by_the_stream(config: Config, agent: AgentState) -> AgentState:
    """Returns an agent's state with the nodes and services that the stream gives, where that can be read."""
    from pmoves_mesh.agent.rebuild import replayed  # noqa: PLC0415 - it takes long to import

    try:
        registry = replayed(config)
    except (LogError, PkiError):
        return agent  # said of NATS, or of the identity
    nodes = [msgspec.to_builtins(node_view(node)) for node in registry.nodes.values()]
    listed = [instance_view(registry, entry) for entry in registry.entries() if registry.is_listed(entry)]
    return replace(agent, nodes=nodes, services=list(map(msgspec.to_builtins, listed)))


def _jetstream(host: Host) -> Iterator[Complaint]:
    """NATS lets this node in, has JetStream, and in it the stream and the buckets."""
    found = host.nats
    if found.problem:
        # Where nothing answers at all, that is said of NATS.
        yield Complaint("alarm" if found.asked or found.refused else "warning", found.problem, found.remedy)
        return
    for name, facts in found.streams.items():
        if facts is None:
            yield Complaint("alarm", f"stream {name} is missing", _MAKER)


def _durability(host: Host) -> Iterator[Complaint]:
    """What is acknowledged is on the disk, and on as many servers as there should be."""
    if not host.nats.asked:
        yield _UNASKED
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
        yield _UNASKED
        return
    off_s = abs(ahead_s)
    if off_s - host.nats.unsure_s >= _SKEW_WARNING_S:
        side = "ahead of" if ahead_s > 0 else "behind"
        yield Complaint(
            "alarm" if off_s >= _SKEW_ALARM_S else "warning",
            f"this host's clock is {off_s:.1f} s {side} that of the NATS server",
            "set the one that is wrong, by NTP: timedatectl set-ntp true",
        )


def _lease(host: Host) -> Iterator[Complaint]:
    """This node holds its own lease: the others take it for alive."""
    value, node = host.nats.lease, host.config.node
    if value is None:
        yield _UNASKED
    elif not value:
        remedy = f"see {host.config.data_dir / 'agent.log'}" if host.agent.alive else "pmoves-mesh up"
        yield Complaint(
            "alarm" if host.agent.alive else "warning",
            f"node {node} holds no lease: the others take it for lost",
            remedy,
        )
    else:
        yield from _held(host, value)


def _held(host: Host, value: bytes) -> Iterator[Complaint]:
    config = host.config
    own = "give each host its own name and identity: set MESH_HOSTNAME, then pmoves-mesh join TOKEN"
    try:
        trust = Trust(config.mesh, keystore.read_roots(config.tls_dir))
        for certificate in read_certificates(identity_files(config)[0]):
            trust.admit(certificate.public_bytes(Encoding.DER))
        lease = unseal(value, config.node, trust, host.now_ms)
    except RemoteProtocolError as error:
        yield Complaint("alarm", f"the lease of node {config.node} is not this host's: {error}", own)
    except PkiError as error:
        yield Complaint("warning", f"not checked: {error}", "see identity")
    else:
        if not host.agent.alive:
            yield Complaint(
                "warning",
                f"an agent on {lease.host} holds the lease of node {config.node}, and none answers here",
                f"if that is another host, {own}",
            )


def _lag(host: Host) -> Iterator[Complaint]:
    """The agent has taken in all that the stream held when it was asked."""
    events = host.nats.streams.get(EVENTS)
    if events is None or not host.agent.alive:
        what = "NATS could not be asked" if host.agent.alive else "no agent answers"
        yield Complaint("warning", f"not checked: {what}", "see NATS and agent")
        return
    last, agent, clock = events.state.last_seq, host.agent, SystemClock()
    give_up_s = clock.monotonic_s() + _CATCH_UP_S
    while (behind := last - _position(agent.registry)) > 0 and clock.monotonic_s() < give_up_s:
        sleep(_POLL_S)
        agent = ask_agent(host.config)
    if behind > 0:
        yield Complaint(
            "alarm",
            f"the agent is {behind} events behind the stream, and did not catch up in {_CATCH_UP_S:g} s",
            f"see {host.config.data_dir / 'agent.log'}; if it goes on: pmoves-mesh down, then pmoves-mesh up",
        )


def _applications(host: Host) -> Iterator[Complaint]:
    """What applications tell is kept, by this mesh's streams or those of another making."""
    for one in host.nats.applications:
        if not one.stream:
            yield Complaint("warning", f"no stream keeps what is told on {one.subject}", _MAKER)
        elif not one.ours:
            yield Complaint("ok", f"{one.subject} is kept by stream {one.stream}, of another making", "")
    if not host.nats.applications:
        yield _UNASKED


def _position(registry: Any) -> int:
    position = (registry or {}).get("position")
    return position if isinstance(position, int) else 0


def _agreement(host: Host) -> Iterator[Complaint]:
    """The bucket says what the stream gives, and so does the agent."""
    from pmoves_mesh.agent.rebuild import check  # noqa: PLC0415 - it takes long to import

    if host.nats.problem or None in host.nats.streams.values() or not host.nats.streams:
        yield _UNASKED
        return
    try:
        alive = host.agent.alive
        checked = check(host.config, lambda: shown_here(host.config, TIMEOUT_S) if alive else None)
    except (LogError, PkiError) as error:
        yield Complaint("warning", f"not checked: {error}", "see NATS and identity")
        return
    if checked.differences:
        first, count = checked.differences[0], len(checked.differences)
        yield Complaint(
            "alarm",
            f"{cell(first.key)} is {first.problem} in the {first.place}"
            f"{f', and {count - 1} more differ' if count > 1 else ''}",
            f"wait PMOVES_RECONCILE_S ({host.config.reconcile_s} s), or now: pmoves-mesh bucket rebuild",
        )


CHECKS: Final = (
    Check("JetStream", _jetstream, "there, with the mesh's stream and buckets"),
    Check("durability", _durability, "what is acknowledged is on the disk"),
    Check("clock", _clock, "agrees with the NATS server's"),
    Check("lease", _lease, "held by this node"),
    Check("replica", _lag, "the agent holds what the stream does"),
    Check("events", _applications, "what applications tell is kept"),
    Check("agreement", _agreement, "stream, bucket and agent say the same"),
)
