"""The commands that read the registry through this host's agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, get_args
from urllib.parse import quote

import click

from pmoves_mesh.cli.client import AgentClient, Answer, read_config
from pmoves_mesh.cli.conditions import RULE, parse_conditions
from pmoves_mesh.cli.console import Column, cell, example, print_fields, print_json, print_table
from pmoves_mesh.cli.moments import MOMENT, Moment, shown_time
from pmoves_mesh.cli.progress import shown_progress
from pmoves_mesh.core.choice import LIMIT_MAX, Preference

_INSTANCE_COLUMNS: Final = (
    Column("SERVICE", "name"),
    Column("ID", "id"),
    Column("NODE", "node"),
    Column("ADDRESS", "address"),
    Column("HEALTH", "health_status"),
    Column("MODE", "mode"),
    Column("CAPABILITIES", "capabilities"),
    Column("VERIFIED", "verified"),
    Column("LAST SEEN", "last_seen"),
)
_NODE_COLUMNS: Final = (
    Column("NODE", "name"),
    Column("STATUS", "status"),
    Column("ADDRESS", "address"),
    Column("MODE", "mode"),
    Column("RESOURCES", "brief"),
    Column("CAPABILITIES", "capabilities"),
    Column("SERVICES", "services"),
    Column("VERIFIED", "verified"),
    Column("LAST SEEN", "last_seen"),
)

_DECIDING: Final = {
    "least_loaded": Column("LOAD", "load"),
    "nearest": Column("ROUND TRIP MS", "round_trip_ms"),
}
"""What decided, by what was preferred."""

at_option = click.option("--at", type=Moment(), help=f"As it was at a moment: {MOMENT}.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print the agent's answer as JSON.")


@click.command(
    "status", epilog=example("pmoves-mesh status", "pmoves-mesh status --json | jq .registry.position")
)
@json_option
def status_command(*, as_json: bool) -> None:
    """Show the mesh as this host sees it: its state, its nodes and its services."""
    answer = AgentClient(read_config()).get("/api/status")
    if as_json:
        print_json(answer.fields)
        return
    registry, nodes, services = answer.record("registry"), answer.records("nodes"), answer.records("services")
    print_fields(registry.items())
    click.echo()
    print_nodes(nodes)
    click.echo()
    print_instances(services)


@click.command("nodes", epilog=example("pmoves-mesh nodes", "pmoves-mesh nodes --at 1h"))
@at_option
@json_option
def nodes_command(*, at: str | None, as_json: bool) -> None:
    """List the nodes of the mesh, and whether they are alive."""
    answer = _asked("/api/nodes", {} if at is None else {"at": at}, as_json=as_json)
    if as_json:
        print_json(answer.fields)
    else:
        print_nodes(answer.records("nodes"))
        _print_moment(answer)


@click.command(
    "services",
    epilog=example(
        "pmoves-mesh services --capability stt --healthy-only",
        "pmoves-mesh services --at '2026-11-23T06:00'",
    ),
)
@click.option("--mode", help="Only instances of this mode: docked or standalone.")
@click.option("--capability", help="Only instances that have this capability.")
@click.option("--node", help="Only instances on this node.")
@click.option("--healthy-only", is_flag=True, help="Only instances whose last health check passed.")
@at_option
@json_option
def services_command(
    *,
    mode: str | None,
    capability: str | None,
    node: str | None,
    healthy_only: bool,
    at: str | None,
    as_json: bool,
) -> None:
    """List the instances of every service."""
    query = {"mode": mode, "capability": capability, "node": node, "at": at}
    asked = {name: value for name, value in query.items() if value is not None}
    if healthy_only:
        asked["healthy_only"] = "true"
    answer = _asked("/api/services", asked, as_json=as_json)
    if as_json:
        print_json(answer.fields)
    else:
        print_instances(answer.records("services"))
        _print_moment(answer)


@click.command("service", epilog=example("pmoves-mesh service whisper"))
@click.argument("name")
@json_option
def service_command(*, name: str, as_json: bool) -> None:
    """Show one service: its best instance, and all of them."""
    answer = AgentClient(read_config()).get(f"/api/services/{quote(name, safe='')}")
    if as_json:
        print_json(answer.fields)
        return
    instances = answer.records("instances")
    print_fields((field, value) for field, value in answer.fields.items() if field != "instances")
    click.echo()
    print_instances(instances)


@click.command(
    "discover",
    epilog=example(
        "pmoves-mesh discover stt gpu",
        "pmoves-mesh discover --where 'resources.gpu.memory_gb>=8' --prefer least_loaded --limit 1",
    ),
)
@click.argument("capabilities", nargs=-1, metavar="[CAPABILITY]...")
@click.option("--where", "conditions", multiple=True, metavar="CONDITION", help=f"{RULE}; may be repeated.")
@click.option(
    "--prefer",
    type=click.Choice(get_args(Preference)),
    help="What decides among those that are equally well; local by default.",
)
@click.option("--limit", type=click.IntRange(1, LIMIT_MAX), help="How many to list at most.")
@json_option
def discover_command(
    *,
    capabilities: tuple[str, ...],
    conditions: tuple[str, ...],
    prefer: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    """List the instances that have all of the given capabilities and match all conditions, best first."""
    if not capabilities and not conditions:
        raise click.UsageError("name a capability, or a condition with --where")
    asked = {"where": parse_conditions(conditions), "prefer": prefer, "limit": limit}
    body = {name: value for name, value in asked.items() if value}
    answer = AgentClient(read_config()).post("/api/discover", {"capabilities": list(capabilities), **body})
    if as_json:
        print_json(answer.fields)
    else:
        print_instances(answer.records("services"), _DECIDING.get(prefer or ""))


def print_nodes(nodes: list[dict[str, Any]]) -> None:
    """Prints nodes as a table."""
    rows = ({**with_address(node), "brief": brief(node.get("resources"))} for node in nodes)
    print_table(_NODE_COLUMNS, rows, empty="no nodes yet")


def print_instances(instances: list[dict[str, Any]], further: Column | None = None) -> None:
    """Prints instances as a table, with another column at its end if there is more to say."""
    columns = (*_INSTANCE_COLUMNS, *((further,) if further else ()))
    print_table(columns, map(with_address, instances), empty="no services")


def _asked(path: str, query: dict[str, str], *, as_json: bool) -> Answer:
    """Returns what the agent answers; where the past is asked for, that may take a while."""
    client = AgentClient(read_config())
    if "at" not in query:
        return client.get(path, query)
    with shown_progress("reading the stream", as_json=as_json):
        return client.get(path, query)


def _print_moment(answer: Answer) -> None:
    """Says beside the table what moment it is of, if it is of the past."""
    if "at" in answer.fields:
        at = answer.record("at")
        time = cell(shown_time(at.get("time")))
        click.echo(f"as it was at position {cell(at.get('position'))}, whose event is of {time}", err=True)


def brief(resources: object) -> list[str]:
    """Returns what a node has in a few words; what other programs announce may have any shape."""
    if not isinstance(resources, dict):
        return []
    named = (("cpu_cores", "cores"), ("memory_gb", "GB"))
    words = [f"{resources[field]:g} {unit}" for field, unit in named if _is_number(resources.get(field))]
    gpus = resources.get("gpu")
    for gpu in gpus if isinstance(gpus, list) else ():
        if isinstance(gpu, dict):
            memory = gpu.get("memory_gb")
            words.append(f"{gpu.get('model', 'GPU')}{f' {memory:g} GB' if _is_number(memory) else ''}")
    return words


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def with_address(record: Mapping[str, Any]) -> dict[str, Any]:
    """Adds `host:port` to a record; an instance without an endpoint (port 0) has none."""
    host, port = record.get("host"), record.get("port")
    if host and ":" in host:
        host = f"[{host}]"
    return {**record, "address": f"{host}:{port}" if host and port else host}
