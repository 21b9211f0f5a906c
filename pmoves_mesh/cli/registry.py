"""`registry`: has everything that holds the registry say the same again."""

from __future__ import annotations

from typing import Any, Final

import click
import msgspec

from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import cell, example, print_json
from pmoves_mesh.cli.progress import shown_progress
from pmoves_mesh.cli.streams import only_errors

_WITHIN_S: Final = 180.0
"""The whole stream is read for it."""


@click.group("registry", epilog=example("pmoves-mesh registry sync"))
def registry_command() -> None:
    """Look after the registry: the stream, the bucket, and what this host's agent holds."""


@registry_command.command(
    "sync", epilog=example("pmoves-mesh registry sync", "pmoves-mesh registry sync --json")
)
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def sync_command(*, as_json: bool) -> None:
    """Compare the stream, the bucket and this host's agent now, and mend what differs.

    The stream is the truth: the bucket and the agent's copy are brought to what it says. What this node
    registered, and the stream has lost, is stated again. Without an agent here only the bucket is mended.
    """
    only_errors()
    config = read_config()
    client = AgentClient(config, _WITHIN_S)
    with shown_progress("this host's agent compares and mends", as_json=as_json):
        done = client.post("/api/sync", {}).fields if client.probe("/healthz") == 200 else None
    if done is None:
        _mend_bucket(as_json=as_json)
        return
    if as_json:
        print_json(done)
    else:
        click.echo(
            f"in step up to position {done.get('position')}: {done.get('keys')} keys; "
            f"mended: {_sum(done, 'written', 'deleted')} in the bucket, {_sum(done, 'replica')} in this "
            f"host's agent, {_sum(done, 'restated')} stated again"
        )
    if left := done.get("left"):
        raise click.ClickException(f"{len(left)} differ still: {cell(left)}; see: pmoves-mesh bucket check")


def _mend_bucket(*, as_json: bool) -> None:
    # Imported here: where an agent answers, nothing of it is needed.
    from pmoves_mesh.agent.rebuild import run  # noqa: PLC0415 - see above

    with shown_progress(as_json=as_json) as progress:
        done = run(read_config(), progress)
    if as_json:
        print_json(msgspec.to_builtins(done))
        return
    click.echo(
        f"in step up to position {done.position}: {done.keys} keys; mended: {done.written + done.deleted} in "
        "the bucket; no agent answers here"
    )


def _sum(answer: dict[str, Any], *fields: str) -> int:
    return sum(int(answer.get(field) or 0) for field in fields)
