"""`register` and `deregister`: what runs on this node, said by hand."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import cell, example


@click.command(
    "register",
    epilog=example(
        "pmoves-mesh register whisper --port 9000 --capability stt \\",
        "    --health-url http://127.0.0.1:9000/healthz --meta model=large-v3",
    ),
)
@click.argument("name")
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="TCP port; 0 if it has none.")
@click.option("--host", help="Address that others reach it at. Default: this node's.")
@click.option("--mode", type=click.Choice(["docked", "standalone"]), help="Default: this node's.")
@click.option("--capability", "capabilities", multiple=True, help="What it can do; may be repeated.")
@click.option("--health-url", help="URL that the agent probes.")
@click.option("--id", "instance_id", help="Tells copies of one service on one node apart.")
@click.option("--meta", "metadata", multiple=True, metavar="KEY=VALUE", help="Free text; may be repeated.")
def register_command(
    *,
    name: str,
    port: int,
    host: str | None,
    mode: str | None,
    capabilities: tuple[str, ...],
    health_url: str | None,
    instance_id: str | None,
    metadata: tuple[str, ...],
) -> None:
    """Register an instance of a service on this node, or update it."""
    optional = {
        "host": host,
        "mode": mode,
        "capabilities": list(capabilities) or None,
        "health_url": health_url,
        "id": instance_id,
        "metadata": _parse_metadata(metadata) or None,
    }
    body: dict[str, Any] = {"name": name, "port": port}
    body.update({field: value for field, value in optional.items() if value is not None})
    answer = AgentClient(read_config()).post("/api/services", body)
    service = answer.record("service")
    where = f"{service.get('host')}:{service['port']}" if service.get("port") else "no endpoint"
    click.echo(cell(f"registered: {service.get('name')} on {service.get('node')} ({where})"))


@click.command("deregister", epilog=example("pmoves-mesh deregister whisper"))
@click.argument("name")
@click.option("--node", help="The node it was registered on. Default: the only one.")
@click.option("--id", "instance_id", help="Which copy, when there are several.")
def deregister_command(*, name: str, node: str | None, instance_id: str | None) -> None:
    """Remove an instance of a service."""
    query = {"node": node, "id": instance_id}
    asked = {field: value for field, value in query.items() if value is not None}
    AgentClient(read_config()).delete(f"/api/services/{quote(name, safe='')}", asked)
    click.echo(cell(f"unregistered: {name}"))


def _parse_metadata(pairs: tuple[str, ...]) -> dict[str, str]:
    metadata = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--meta")
        metadata[key] = value
    return metadata
