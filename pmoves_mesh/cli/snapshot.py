"""`snapshot`: the whole registry as one signed file, and back."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from pmoves_mesh.agent import backup
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import cell, example, print_json
from pmoves_mesh.cli.progress import shown_progress
from pmoves_mesh.cli.streams import only_errors

_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path))


@click.group("snapshot", epilog=example("pmoves-mesh snapshot save mesh.snapshot"))
def snapshot_command() -> None:
    """Save the whole registry into a signed file, or put back from one what the mesh lacks."""


@snapshot_command.command("save", epilog=example("pmoves-mesh snapshot save mesh.snapshot"))
@_FILE
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def save_command(*, file: Path, as_json: bool) -> None:
    """Save the registry into FILE, signed with this node's identity.

    It holds every record with its own signature, every certificate that those need, and no key.
    """
    only_errors()
    with shown_progress("reading the bucket", as_json=as_json):
        saved = backup.save(read_config(), file)
    if as_json:
        print_json(msgspec.to_builtins(saved))
        return
    click.echo(
        f"saved {saved.records} keys and {saved.certificates} certificates up to position "
        f"{saved.position} in {file}, signed by {saved.signer}"
    )
    for key in saved.left_out:
        click.echo(f"left out, as nothing proves it: {cell(key)}")


@snapshot_command.command("restore", epilog=example("pmoves-mesh snapshot restore mesh.snapshot --dry-run"))
@_FILE
@click.option("--dry-run", is_flag=True, help="Only say what the mesh lacks.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def restore_command(*, file: Path, dry_run: bool, as_json: bool) -> None:
    """Put back what the mesh lacks of FILE, after all of it was checked against ca.crt.

    Nothing that was said or removed since is undone. Where NATS asks for certificates, run it on
    the host that keeps the CA.
    """
    only_errors()
    with shown_progress(as_json=as_json) as progress:
        done = backup.restore(read_config(), file, dry_run=dry_run, progress=progress)
    if as_json:
        print_json(msgspec.to_builtins(done))
        return
    verb = "lacks" if dry_run else "was given"
    click.echo(
        f"{file}, made {done.made} by {done.signer}, is sound; of its {done.records} keys the mesh {verb} "
        f"{len(done.keys)}, and {len(done.certificates)} certificates"
    )
    for key in done.keys:
        click.echo(f"  {cell(key)}")
