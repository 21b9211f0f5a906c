"""`register` and `deregister`: what runs on this node, said by hand; and what an operator evicts."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import quote

import click

from pmoves_mesh.cli.checks import check_fields, check_options
from pmoves_mesh.cli.client import AgentClient, Answer, read_config
from pmoves_mesh.cli.console import cell, example, print_json
from pmoves_mesh.core.names import parse_instance_id, parse_label

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print it as JSON; `waiting` says if the mesh is not told yet."
)


class InstanceTarget(NamedTuple):
    """What an operator evicts: one instance on a node, or every one of a service there."""

    node: str
    service: str
    id: str | None


@click.command(
    "register",
    epilog=example(
        "pmoves-mesh register whisper --port 9000 --capability stt \\",
        "    --health-url http://127.0.0.1:9000/healthz --meta model=large-v3",
        "pmoves-mesh register cache --port 6379 --check tcp --every 5 --fall 2",
    ),
)
@click.argument("name")
@click.option("--port", type=click.IntRange(0, 65535), required=True, help="TCP port; 0 if it has none.")
@click.option("--host", help="Address that others reach it at. Default: this node's.")
@click.option("--mode", type=click.Choice(["docked", "standalone"]), help="Default: this node's.")
@click.option("--capability", "capabilities", multiple=True, help="What it can do; may be repeated.")
@click.option("--health-url", help="URL at which its health can be asked.")
@check_options
@click.option("--id", "instance_id", help="Tells copies of one service on one node apart.")
@click.option("--meta", "metadata", multiple=True, metavar="KEY=VALUE", help="Free text; may be repeated.")
@json_option
def register_command(
    *,
    name: str,
    port: int,
    host: str | None,
    mode: str | None,
    capabilities: tuple[str, ...],
    health_url: str | None,
    check: str | None,
    deregister_after: float | None,
    instance_id: str | None,
    metadata: tuple[str, ...],
    as_json: bool,
    **check_settings: Any,
) -> None:
    """Register an instance of a service on this node, or update it."""
    optional = {
        "host": host,
        "mode": mode,
        "capabilities": list(capabilities) or None,
        "health_url": health_url,
        "deregister_after": deregister_after,
        "id": instance_id,
        "metadata": _parse_metadata(metadata) or None,
    }
    body: dict[str, Any] = {"name": name, "port": port, **check_fields(check, **check_settings)}
    body.update({field: value for field, value in optional.items() if value is not None})
    answer = AgentClient(read_config()).post("/api/services", body)
    service = answer.record("service")
    where = f"{service.get('host')}:{service['port']}" if service.get("port") else "no endpoint"
    print_answer(
        answer, f"registered: {service.get('name')} on {service.get('node')} ({where})", as_json=as_json
    )


@click.command(
    "deregister",
    epilog=example(
        "pmoves-mesh deregister whisper",
        "pmoves-mesh deregister jetson/whisper --force --reason 'answers nonsense'",
        "pmoves-mesh deregister jetson/whisper --force --lift",
    ),
)
@click.argument("name", metavar="NAME|NODE/SERVICE[/ID]")
@click.option("--node", help="The node it was registered on. Default: the only one.")
@click.option("--id", "instance_id", help="Which copy, when there are several.")
@click.option("--force", is_flag=True, help="Evict NODE/SERVICE[/ID], whoever owns it, until it is lifted.")
@click.option("--lift", is_flag=True, help="Take back an eviction of NODE/SERVICE[/ID].")
@click.option("--reason", default="", help="Why it is evicted, for whoever reads the stream.")
@json_option
def deregister_command(
    *,
    name: str,
    node: str | None,
    instance_id: str | None,
    force: bool,
    lift: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Remove an instance of a service from this node; with --force, an operator evicts any node's.

    What is evicted is no longer discovered anywhere, and nothing that its owner says brings it
    back until --lift. This needs the CA's key, or an operator's identity, in PMOVES_TLS_DIR.
    """
    if force or lift:
        if node is not None or instance_id is not None:
            raise click.UsageError("with --force or --lift, say NODE/SERVICE or NODE/SERVICE/ID")
        _evict(_parse_target(name), reason, lifted=lift, as_json=as_json)
        return
    if reason:
        raise click.UsageError("--reason goes with --force")
    query = {"node": node, "id": instance_id}
    asked = {field: value for field, value in query.items() if value is not None}
    answer = AgentClient(read_config()).delete(f"/api/services/{quote(name, safe='')}", asked)
    print_answer(answer, f"unregistered: {name}", as_json=as_json)


def print_answer(answer: Answer, done: str, *, as_json: bool) -> None:
    """Prints what was done, and whether the mesh knows of it yet; as JSON, the answer itself."""
    waiting = answer.status == HTTPStatus.ACCEPTED
    if as_json:
        print_json({**answer.fields, "waiting": waiting})
        return
    click.echo(cell(done))
    if waiting:
        click.echo("known on this node; the others are told as soon as NATS can be reached")


def _evict(target: InstanceTarget, reason: str, *, lifted: bool, as_json: bool) -> None:
    # Imported here: whoever registers a service needs neither NATS nor the CA.
    from pmoves_mesh.agent import operator  # noqa: PLC0415 - see above
    from pmoves_mesh.cli.decrees import decree  # noqa: PLC0415 - see above

    build = operator.evict(target.service, target.node, target.id, reason=reason, lifted=lifted)
    done = decree(read_config(), build)
    status = "lifted" if lifted else "evicted"
    if as_json:
        print_json({"status": status, **target._asdict(), "position": done.position})
    else:
        click.echo(cell(f"{status}: {'/'.join(filter(None, target))} ({done})"))


def _parse_target(text: str) -> InstanceTarget:
    match text.split("/"):
        case [node, service]:
            return InstanceTarget(parse_label(node, "node"), parse_label(service, "service"), None)
        case [node, service, instance_id]:
            return InstanceTarget(
                parse_label(node, "node"), parse_label(service, "service"), parse_instance_id(instance_id)
            )
        case _:
            raise click.UsageError(f"{text!r} is not NODE/SERVICE or NODE/SERVICE/ID")


def _parse_metadata(pairs: tuple[str, ...]) -> dict[str, str]:
    metadata = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"{pair!r} is not KEY=VALUE", param_hint="--meta")
        metadata[key] = value
    return metadata
