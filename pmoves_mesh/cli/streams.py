"""`migrate` and `bucket`: what an operator does to the mesh's stream and bucket by hand."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Final

import click
import structlog

from pmoves_mesh.agent.link import nats_settings
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import example
from pmoves_mesh.errors import StartError
from pmoves_mesh.log import migration
from pmoves_mesh.log.connection import Connection, NatsSettings
from pmoves_mesh.log.migration import Conflict

_CONNECT_WITHIN_S: Final = 5.0


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
    done = run(read_config())
    click.echo(
        f"rebuilt up to position {done.position}: {done.keys} keys, "
        f"{done.written} written, {done.deleted} deleted"
    )


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
