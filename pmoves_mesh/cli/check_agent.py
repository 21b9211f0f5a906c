"""What `doctor` asks: this host's agent, its NATS servers, and what its settings allow to others."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final
from urllib.parse import urlsplit

import click

from pmoves_mesh.cli.client import AgentClient
from pmoves_mesh.cli.findings import AgentState, Check, Complaint, Host
from pmoves_mesh.config import Config, is_loopback
from pmoves_mesh.errors import ConfigError

TIMEOUT_S: Final = 3.0
_CONNECT_S: Final = 2.0
_NATS_GREETING: Final = b"INFO "
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
            services=status.records("services"),
        )
    except click.ClickException as error:
        return AgentState(url=client.url, alive=True, current=current, problem=error.format_message())


def silent(config: Config) -> AgentState:
    """Returns what is known of an agent that takes a question and does not answer in time."""
    return AgentState(url="", problem=f"the agent on port {config.http_port} does not answer in time")


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


CHECKS: Final = (
    Check("agent", _agent, "answers, is current, and warns of nothing else"),
    Check("NATS", _nats, "answers"),
    Check("signatures", _unsigned, "nothing unsigned is believed"),
    Check("HTTP", _http, "as closed as it should be"),
)
