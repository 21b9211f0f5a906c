"""`maintenance`: what is hidden from discovery for a while, on this node or another, and stays registered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple
from urllib.parse import quote

import click

from pmoves_mesh.cli.client import AgentClient, NodeClient, read_config
from pmoves_mesh.cli.console import example
from pmoves_mesh.cli.registration import json_option, print_answer
from pmoves_mesh.config import Config
from pmoves_mesh.core.names import parse_instance_id, parse_label


class _Target(NamedTuple):
    """What is meant: a node, all instances of a service there, or one of them."""

    node: str
    service: str | None = None
    id: str | None = None

    def __str__(self) -> str:
        return "/".join(filter(None, self))

    @property
    def path(self) -> str:
        """The route of the node's agent that sets it."""
        if self.service is None:
            return f"/api/nodes/{quote(self.node)}/maintenance"
        return f"/api/services/{quote(self.service)}/maintenance"


@click.command(
    "maintenance",
    epilog=example(
        "pmoves-mesh maintenance on jetson --reason 'new disk'",
        "pmoves-mesh maintenance on jetson/whisper",
        "pmoves-mesh maintenance off jetson",
    ),
)
@click.argument("state", type=click.Choice(["on", "off"]))
@click.argument("name", metavar="NODE[/SERVICE[/ID]]")
@click.option("--reason", default="", help="Why, for whoever lists the registry.")
@json_option
def maintenance_command(*, state: str, name: str, reason: str, as_json: bool) -> None:
    """Hide a node, a service or an instance from discovery, or show it again.

    It stays registered, its health is still looked after, and what it registers meanwhile is hidden too.
    Each of node, service and instance has a mark of its own: what is hidden by one is shown again only
    by that one. Another node is told over HTTPS, with this host's identity or that of its operator.
    """
    target = _parse(name)
    if reason and state == "off":
        raise click.UsageError("--reason goes with on")
    config = read_config()
    client = AgentClient(config)
    if target.node != config.node:
        client = _other(config, client, target.node, f"pmoves-mesh maintenance {state} {target}")
    query = {"id": target.id} if target.id is not None else None
    answer = client.put(target.path, {"on": state == "on", "reason": reason}, query)
    instances = answer.records("services")
    print_answer(answer, _summary(state, target, instances), as_json=as_json)


def _parse(text: str) -> _Target:
    match text.split("/"):
        case [node]:
            return _Target(parse_label(node, "node"))
        case [node, service]:
            return _Target(parse_label(node, "node"), parse_label(service, "service"))
        case [node, service, instance_id]:
            service = parse_label(service, "service")
            return _Target(parse_label(node, "node"), service, parse_instance_id(instance_id))
        case _:
            raise click.UsageError(f"{text!r} is not NODE, NODE/SERVICE or NODE/SERVICE/ID")


def _other(config: Config, here: AgentClient, node: str, command: str) -> AgentClient:
    """Returns a client of another node's agent, whose place this host's agent knows."""
    known = here.get(f"/api/nodes/{quote(node)}").fields
    host, port = known.get("host"), known.get("port")
    if not (isinstance(host, str) and host and isinstance(port, int) and port):
        raise click.ClickException(f"where node {node} can be asked is not known: run it there: {command}")
    return NodeClient(config, node, (host, port), remedy=f"run it there: {command}")


def _summary(state: str, target: _Target, instances: Iterable[dict[str, Any]]) -> str:
    held = list(instances)
    hidden = [one for one in held if one.get("maintenance")]
    count = f"{len(held)} instance{'' if len(held) == 1 else 's'}"
    if state == "on":
        return f"in maintenance: {target} ({count} hidden)"
    if not hidden:
        return f"out of maintenance: {target} ({count})"
    why = ", ".join(sorted({str(one.get("maintenance_reason")) or "no reason given" for one in hidden}))
    return f"out of maintenance: {target}, but {len(hidden)} of {count} still hidden by another mark: {why}"
