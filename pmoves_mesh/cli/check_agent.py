"""What `doctor` asks: this host's agent, its NATS servers, and what its settings allow to others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import datetime
from typing import Final
from urllib.parse import urlsplit

import click

from pmoves_mesh.cli.client import AgentClient
from pmoves_mesh.cli.findings import AgentState, Check, Complaint, Host
from pmoves_mesh.config import Config, is_loopback
from pmoves_mesh.errors import ConfigError

TIMEOUT_S: Final = 5.0
_CONNECT_S: Final = 2.0
_NATS_GREETING: Final = b"INFO "
_BEHIND_WARNING_S: Final = 5.0
_BEHIND_ALARM_S: Final = 3600.0
_SILENCE_S_MIN: Final = 600.0
_SILENCE_ANNOUNCEMENTS: Final = 20
_SAID_BY_OURSELVES: Final = ("PMOVES_UNSIGNED=accept", "PMOVES_INSECURE_HTTP=1", "sync_interval")
"""What the agent warns of too, without saying what to do about it."""


def ask_agent(config: Config) -> AgentState:
    """Asks this host's agent how it is; never raises for what it answers, or does not."""
    try:
        client = AgentClient(config, TIMEOUT_S)
    except ConfigError as error:
        return AgentState(url="", problem=str(error))
    if client.probe("/healthz") != 200:
        return AgentState(url=client.url, problem=f"no agent answers at {client.url}")
    current = client.probe("/readyz") == 200
    try:
        status = client.get("/api/status")
        return AgentState(
            url=client.url,
            alive=True,
            current=current,
            registry=status.record("registry"),
            nodes=status.records("nodes"),
        )
    except click.ClickException as error:
        return AgentState(url=client.url, alive=True, current=current, problem=error.format_message())


def _agent(host: Host) -> Iterator[Complaint]:
    """The agent answers, is current, and has nothing to warn of."""
    agent = host.agent
    if not agent.alive:
        yield Complaint("alarm", agent.problem, "pmoves-mesh up")
        return
    if agent.problem:
        yield Complaint("alarm", agent.problem, f"see {host.config.data_dir / 'agent.log'}")
    registry = agent.registry or {}
    if not agent.current:
        stale_s = registry.get("stale_s")
        since = f"{stale_s:.0f} s ago" if isinstance(stale_s, int | float) else "never"
        yield Complaint(
            "warning",
            f"the agent's copy of the registry is not current (last: {since})",
            "see that NATS can be reached; the agent then catches up by itself",
        )
    for warning in registry.get("warnings") or ():
        if not any(known in str(warning) for known in _SAID_BY_OURSELVES):
            yield Complaint("warning", str(warning), f"see {host.config.data_dir / 'agent.log'}")


def _nats(host: Host) -> Iterator[Complaint]:
    """At least one NATS server answers."""
    problems = {url: problem for url in host.config.nats_servers if (problem := _nats_problem(url))}
    none = len(problems) == len(host.config.nats_servers)
    remedy = "pmoves-mesh up" if host.config.embedded else "start it, or set NATS_URL"
    for url, problem in problems.items():
        yield Complaint("alarm" if none else "warning", f"{url}: {problem}", remedy)


def _nats_problem(url: str) -> str:
    """Returns why a NATS server cannot be used, or nothing; a websocket says nothing of itself.

    Source: docs.nats.io, "NATS protocol": the server speaks first, and says INFO.
    """
    parts = urlsplit(url)
    try:
        with socket.create_connection((parts.hostname or "", parts.port or 4222), _CONNECT_S) as connection:
            if parts.scheme in {"ws", "wss"}:
                return ""
            connection.settimeout(_CONNECT_S)
            greeting = connection.recv(len(_NATS_GREETING), socket.MSG_WAITALL)
    except OSError as error:
        return f"cannot be reached ({error.strerror or error})"
    return "" if greeting == _NATS_GREETING else "what answers there is no NATS server"


def _durability(host: Host) -> Iterator[Complaint]:
    """The NATS server writes before it acknowledges, which only that of an agent is known to do."""
    if not host.config.embedded and host.config.nats_dir is None:
        yield Complaint(
            "warning",
            "the NATS server is not ours: whether it writes before it acknowledges cannot be seen from here",
            "set sync_interval: always in the jetstream block of its configuration",
        )


def _unsigned(host: Host) -> Iterator[Complaint]:
    """Nothing unsigned is believed."""
    if host.config.accept_unsigned:
        yield Complaint(
            "warning",
            "PMOVES_UNSIGNED=accept: anyone who reaches NATS can announce anything",
            "unset it once every host runs an agent that signs",
        )


def _http(host: Host) -> Iterator[Complaint]:
    """Other hosts use the HTTP API over TLS, and can prove that they may write."""
    config = host.config
    beyond = not is_loopback(config.http_host)
    if config.insecure_http:
        reach = "other hosts speak" if beyond else "other hosts would speak"
        yield Complaint(
            "warning",
            f"PMOVES_INSECURE_HTTP=1: {reach} to the HTTP API in the clear, tokens included",
            "unset it: the HTTP API then speaks TLS to other hosts",
        )
    if beyond and config.http_token is None:
        who = "nobody" if config.insecure_http else "only who holds a certificate of the mesh"
        yield Complaint(
            "warning",
            f"SERVICE_REGISTRY_HOST={config.http_host} without SERVICE_REGISTRY_TOKEN: "
            f"{who} may write from another host",
            "set SERVICE_REGISTRY_TOKEN if a program without a certificate shall",
        )


def _clock(host: Host) -> Iterator[Complaint]:
    """This host's clock agrees with that of the stream, as far as announcements tell."""
    if host.agent.registry is None or not host.agent.nodes:
        return
    newest = max(datetime.fromisoformat(str(node["last_seen"])) for node in host.agent.nodes)
    ago_s = host.now_ms / 1000 - newest.timestamp()
    silence_s = max(_SILENCE_S_MIN, _SILENCE_ANNOUNCEMENTS * host.config.announce_s)
    if ago_s < -_BEHIND_WARNING_S:
        yield Complaint(
            "alarm" if ago_s < -_BEHIND_ALARM_S else "warning",
            f"this host's clock is {-ago_s:.0f} s behind that of the NATS server, or more",
            "set it, by NTP",
        )
    elif host.agent.current and ago_s > silence_s:
        yield Complaint(
            "warning",
            f"the stream's latest announcement is {ago_s:.0f} s old: "
            "this host's clock is ahead of the NATS server's, or no node announces itself",
            "set it, by NTP; else see the agents' logs",
        )


CHECKS: Final = (
    Check("agent", _agent, "answers, is current, and warns of nothing else"),
    Check("NATS", _nats, "answers"),
    Check("durability", _durability, "the NATS server writes before it acknowledges"),
    Check("signatures", _unsigned, "nothing unsigned is believed"),
    Check("HTTP", _http, "as closed as it should be"),
    Check("clock", _clock, "nothing speaks against it"),
)
