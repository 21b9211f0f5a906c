"""The commands that read the registry through this host's agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import click

from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import Column, example, print_fields, print_json, print_table

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
    Column("CAPABILITIES", "capabilities"),
    Column("SERVICES", "services"),
    Column("VERIFIED", "verified"),
    Column("LAST SEEN", "last_seen"),
)

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
    _print_nodes(nodes)
    click.echo()
    _print_instances(services)


@click.command("nodes", epilog=example("pmoves-mesh nodes"))
@json_option
def nodes_command(*, as_json: bool) -> None:
    """List the nodes of the mesh, and whether they are alive."""
    answer = AgentClient(read_config()).get("/api/nodes")
    if as_json:
        print_json(answer.fields)
    else:
        _print_nodes(answer.records("nodes"))


@click.command("services", epilog=example("pmoves-mesh services --capability stt --healthy-only"))
@click.option("--mode", help="Only instances of this mode: docked or standalone.")
@click.option("--capability", help="Only instances that have this capability.")
@click.option("--node", help="Only instances on this node.")
@click.option("--healthy-only", is_flag=True, help="Only instances whose last health check passed.")
@json_option
def services_command(
    *, mode: str | None, capability: str | None, node: str | None, healthy_only: bool, as_json: bool
) -> None:
    """List the instances of every service."""
    query = {"mode": mode, "capability": capability, "node": node}
    asked = {name: value for name, value in query.items() if value is not None}
    if healthy_only:
        asked["healthy_only"] = "true"
    answer = AgentClient(read_config()).get("/api/services", asked)
    if as_json:
        print_json(answer.fields)
    else:
        _print_instances(answer.records("services"))


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
    _print_instances(instances)


@click.command("discover", epilog=example("pmoves-mesh discover stt gpu"))
@click.argument("capabilities", nargs=-1, required=True, metavar="CAPABILITY...")
@json_option
def discover_command(*, capabilities: tuple[str, ...], as_json: bool) -> None:
    """List the instances that have all of the given capabilities, the best first."""
    answer = AgentClient(read_config()).post("/api/discover", {"capabilities": list(capabilities)})
    if as_json:
        print_json(answer.fields)
    else:
        _print_instances(answer.records("services"))


def _print_nodes(nodes: list[dict[str, Any]]) -> None:
    print_table(_NODE_COLUMNS, map(with_address, nodes), empty="no nodes yet")


def _print_instances(instances: list[dict[str, Any]]) -> None:
    print_table(_INSTANCE_COLUMNS, map(with_address, instances), empty="no services")


def with_address(record: Mapping[str, Any]) -> dict[str, Any]:
    """Adds `host:port` to a record; an instance without an endpoint (port 0) has none."""
    host, port = record.get("host"), record.get("port")
    if host and ":" in host:
        host = f"[{host}]"
    return {**record, "address": f"{host}:{port}" if host and port else host}
