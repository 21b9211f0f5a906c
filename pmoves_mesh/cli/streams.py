"""`migrate` and `bucket`: what an operator does to the mesh's stream and bucket by hand."""

from __future__ import annotations

import asyncio
import logging
import os
from http import HTTPStatus
from pathlib import Path
from typing import Final

import click
import msgspec
import structlog

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.cli.client import TIMEOUT_S, AgentClient, read_config
from pmoves_mesh.cli.console import Column, cell, example, print_json, print_table
from pmoves_mesh.cli.progress import shown_progress
from pmoves_mesh.config import Config
from pmoves_mesh.core import records
from pmoves_mesh.core.comparison import Mark
from pmoves_mesh.core.model import NEVER, InstanceKey, Stamp
from pmoves_mesh.errors import ConfigError, StartError
from pmoves_mesh.log import migration
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.migration import Conflict

_CONNECT_WITHIN_S: Final = 5.0
_DIFFERENCES: Final = (Column("KEY", "key"), Column("PLACE", "place"), Column("PROBLEM", "problem"))


@click.command("migrate", epilog=example("pmoves-mesh migrate", "pmoves-mesh migrate service_registry --yes"))
@click.argument("stream", required=False)
@click.option("--yes", is_flag=True, help="Do not ask.")
def migrate_command(*, stream: str | None, yes: bool) -> None:
    """Free the mesh's subjects from an older JetStream STREAM, or from every one in the way.

    It asks before it changes anything. The stream gives up the mesh's subjects; one that has no
    others is deleted. The latest registration of each service in it goes to a file in
    PMOVES_DATA_DIR.
    """
    only_errors()
    config = read_config()
    settings = nats_settings(config)
    in_the_way = asyncio.run(_plan(settings))
    chosen = [conflict for conflict in in_the_way if stream in {None, conflict.stream}]
    if not chosen:
        click.echo(f"stream {stream} is not in the way" if stream else "no stream is in the way")
    for conflict in chosen:
        click.echo(_intention(conflict))
        if not yes and not click.confirm("Do it?"):
            click.echo(f"stream {conflict.stream} was left as it is")
            continue
        path = config.data_dir / f"migrated-{conflict.stream}.jsonl"
        count = asyncio.run(_migrate(settings, conflict.stream, path))
        click.echo(f"done; the {count} registrations that it held are in {path}")


@click.group("bucket", epilog=example("pmoves-mesh bucket rebuild"))
def bucket_command() -> None:
    """Look after the bucket that holds the registry."""


@bucket_command.command("rebuild", epilog=example("pmoves-mesh bucket rebuild"))
def rebuild_command() -> None:
    """Write the registry's bucket anew from the stream, which is the truth."""
    # Imported here: `migrate` needs nothing of the agent.
    from pmoves_mesh.agent.rebuild import run  # noqa: PLC0415 - see above

    only_errors()
    with shown_progress() as progress:
        done = run(read_config(), progress)
    click.echo(
        f"rebuilt up to position {done.position}: {done.keys} keys, "
        f"{done.written} written, {done.deleted} deleted"
    )


@bucket_command.command(
    "check", epilog=example("pmoves-mesh bucket check", "pmoves-mesh bucket check --json")
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def check_command(*, as_json: bool) -> None:
    """Compare the stream, the bucket and this host's agent, and list where they differ.

    It changes nothing, and exits with 1 if anything differs. The agents mend it by themselves
    within PMOVES_RECONCILE_S; `bucket rebuild` does it now.
    """
    # Imported here: `migrate` needs nothing of the agent.
    from pmoves_mesh.agent.rebuild import check  # noqa: PLC0415 - see above

    only_errors()
    config = read_config()
    with shown_progress(as_json=as_json) as progress:
        checked = check(config, lambda: shown_here(config), progress)
    if as_json:
        print_json({"same": not checked.differences, **msgspec.to_builtins(checked)})
    else:
        rows = [msgspec.structs.asdict(one) for one in checked.differences]
        print_table(_DIFFERENCES, rows, empty="nothing differs")
        compared = (
            "stream, bucket and agent" if checked.replica else "stream and bucket (no agent answers here)"
        )
        click.echo(f"{checked.keys} keys up to position {checked.position}: {compared}")
    if checked.differences:
        first, count = checked.differences[0], len(checked.differences)
        raise click.ClickException(
            f"{count} differ: {cell(first.key)} is {first.problem} in the {first.place}"
            f"{f' (and {count - 1} more)' if count > 1 else ''}"
        )


def shown_here(config: Config, timeout_s: float = TIMEOUT_S) -> dict[str, Mark] | None:
    """Returns the marks of what this host's agent shows, or None if none answers."""
    try:
        client = AgentClient(config, timeout_s)
        if client.probe("/healthz") != HTTPStatus.OK:
            return None
        answer = client.get("/api/status")
    except ConfigError:
        return None  # it picks its own port, which nobody outside it can know
    marks = {f"node.{node['name']}": Mark(NEVER, node["status"]) for node in answer.records("nodes")}
    for one in answer.records("services"):
        key = InstanceKey(one["name"], one["node"], one["id"])
        marks[records.instance_key(key)] = Mark(Stamp(0, one["revision"]))
    return marks


async def _plan(settings: NatsSettings) -> list[Conflict]:
    async with Connection(settings) as connection:
        await connection.wait_connected(_CONNECT_WITHIN_S)
        return await migration.plan(connection)


async def _migrate(settings: NatsSettings, stream: str, path: Path) -> int:
    """Saves what the stream knows before anything is changed."""
    async with Connection(settings) as connection:
        await connection.wait_connected(_CONNECT_WITHIN_S)
        saved = await migration.registrations(connection, stream)
        _write(path, saved)
        await migration.make_room(connection, stream)
        return len(saved)


def _intention(conflict: Conflict) -> str:
    fate = f"narrowed to {', '.join(conflict.kept)}" if conflict.kept else "deleted"
    return (
        f"stream {conflict.stream} ({conflict.messages} messages) claims {', '.join(conflict.subjects)}; "
        f"it will be {fate}"
    )


def _write(path: Path, payloads: list[bytes]) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.writelines(payload + b"\n" for payload in payloads)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StartError(f"{path} cannot be written: {error.strerror}") from error


def only_errors() -> None:
    """Keeps the connection's log off the terminal: what matters comes as the command's one line."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
