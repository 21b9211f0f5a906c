"""What `doctor` checks of this node's part in the mesh: its lease, its copy, and what all say together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import sleep
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from pmoves_mesh.agent.trust.trusted import identity_files
from pmoves_mesh.cli.check_agent import TIMEOUT_S, ask_agent
from pmoves_mesh.cli.check_stream import MAKER, UNASKED
from pmoves_mesh.cli.console import cell
from pmoves_mesh.cli.findings import AgentState, Check, Complaint, Host
from pmoves_mesh.cli.streams import shown_here
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.core.lease import unseal
from pmoves_mesh.core.names import EVENTS
from pmoves_mesh.core.query import instance_view, node_view
from pmoves_mesh.core.trust import Trust
from pmoves_mesh.errors import LogError, PkiError, RemoteProtocolError
from pmoves_mesh.pki import keystore
from pmoves_mesh.pki.files import read_certificates

_CATCH_UP_S: Final = 3.0
_POLL_S: Final = 0.2


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


def _lease(host: Host) -> Iterator[Complaint]:
    """This node holds its own lease: the others take it for alive."""
    value, node = host.nats.lease, host.config.node
    if value is None:
        yield UNASKED
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
            yield Complaint("warning", f"no stream keeps what is told on {one.subject}", MAKER)
        elif not one.ours:
            yield Complaint("ok", f"{one.subject} is kept by stream {one.stream}, of another making", "")
    if not host.nats.applications:
        yield UNASKED


def _position(registry: Any) -> int:
    position = (registry or {}).get("position")
    return position if isinstance(position, int) else 0


def _agreement(host: Host) -> Iterator[Complaint]:
    """The bucket says what the stream gives, and so does the agent."""
    from pmoves_mesh.agent.rebuild import check  # noqa: PLC0415 - it takes long to import

    if host.nats.problem or None in host.nats.streams.values() or not host.nats.streams:
        yield UNASKED
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
    Check("lease", _lease, "held by this node"),
    Check("replica", _lag, "the agent holds what the stream does"),
    Check("events", _applications, "what applications tell is kept"),
    Check("agreement", _agreement, "stream, bucket and agent say the same"),
)
