"""`tailscale`: this host as part of a tailnet, and the mesh beside it."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import Column, example, print_json, print_table
from pmoves_mesh.cli.tailscale_setup import (
    Plan,
    carry_out,
    key_needed,
    make_plan,
    require_program,
    root_rights,
    script_place,
    this_system,
    write_mesh_file,
)
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config
from pmoves_mesh.errors import StartError
from pmoves_mesh.tailscale.comparison import MeshNode, compare
from pmoves_mesh.tailscale.failures import TailscaleError, stopped
from pmoves_mesh.tailscale.program import ON_STDIN, Tailscale, locate
from pmoves_mesh.tailscale.state import TailscaleStatus

_COLUMNS: Final = (
    Column("NAME", "name"),
    Column("MESH", "mesh"),
    Column("TAILSCALE", "tailscale"),
    Column("ADDRESS", "address"),
    Column("PATH", "path"),
    Column("LAST SEEN", "last_seen"),
    Column("DISAGREEMENT", "disagreement"),
)


@click.group(
    "tailscale", epilog=example("pmoves-mesh tailscale setup", "pmoves-mesh tailscale status --json")
)
def tailscale_command() -> None:
    """Make this host part of a tailnet, and see the mesh beside it."""


@tailscale_command.command(
    "setup", epilog=example("pmoves-mesh tailscale setup", "make mesh-setup AUTHKEY=tskey-auth-...")
)
@click.option("--yes", "agreed", is_flag=True, help="Run the commands without asking.")
def setup_command(*, agreed: bool) -> None:
    """Install Tailscale if it is missing, start it, and make this host part of the tailnet.

    It shows every command first, and asks before it runs one. The key is TAILSCALE_AUTHKEY, or in the
    file TAILSCALE_AUTHKEY_FILE, or asked for. What is done already is not done again.
    """
    set_up(read_config(), agreed=agreed)


@tailscale_command.command(
    "status", epilog=example("pmoves-mesh tailscale status", "pmoves-mesh tailscale status --json")
)
@click.option("--json", "as_json", is_flag=True, help="Print the machines as JSON.")
def status_command(*, as_json: bool) -> None:
    """List the nodes of the mesh beside the machines of the tailnet, and where the two disagree.

    What cannot be asked is said on stderr, and makes it exit with 1; the rest is shown all the same.
    """
    config = read_config()
    problems: list[str] = []
    status = None if config.tailscale.mode == "nats" else _tailscale(problems)
    nodes = _nodes(config, problems)
    rows = [row._asdict() for row in compare(nodes, status, SystemClock().now_ms())]
    if as_json:
        print_json({"machines": rows, "problems": problems})
    else:
        print_table(_COLUMNS, rows, empty="no machines")
    if problems:
        raise click.ClickException("; ".join(problems))


@tailscale_command.command("down", epilog=example("pmoves-mesh tailscale down"))
def down_command() -> None:
    """Take this host out of the tailnet for now; it stays logged in, and `setup` takes it back."""
    require_program().down()
    click.echo("this host is out of its tailnet; back with: make mesh-setup")


def set_up(config: Config, *, agreed: bool, optional: bool = False) -> TailscaleStatus | None:
    """Makes this host part of the tailnet, as the settings and whoever sits at the terminal want it.

    Returns how Tailscale is then; None where the host goes without.

    Args:
        config: this host's settings.
        agreed: whether nobody need be asked.
        optional: whether it goes on without Tailscale where there is no key and nobody to ask for one.

    Raises:
        StartError: if a step fails, or a key is needed and there is none.
        TailscaleError: if Tailscale is not up in time.
    """
    if config.tailscale.mode == "nats":
        _finish(config, None, "MESH_NETWORK_MODE=nats: Tailscale is left alone")
        return None
    with script_place() as script:
        plan = make_plan(config, this_system(), root_rights(), script)
        key = _key(config, plan) if plan.uses_key else None
        if key is None and plan.needs_key:
            _skip(config, optional=optional)
            return None
        if key is None and plan.tags is not None:
            _keep_tags(config, plan.tags)
            plan = replace(plan, tags=None)
        lines = plan.lines(config, ON_STDIN if isinstance(key, str) else key)
        if lines:
            click.echo("this will be run:")
            for line in lines:
                click.echo(f"  {line}")
            if not agreed:
                _ask()
        status = carry_out(plan, config, key)
    _finish(config, status, "")
    return status


def _key(config: Config, plan: Plan) -> Path | str | None:
    """Returns the key that the settings hold, or its file, else the one that a person gives."""
    if config.tailscale_authkey is not None:
        return config.tailscale_authkey.reveal()
    if config.tailscale.authkey_file is not None or not sys.stdin.isatty():
        return config.tailscale.authkey_file
    otherwise = "goes on without Tailscale" if plan.needs_key else "leaves this host's tags as they are"
    asked = f"Tailscale key (tskey-auth-..., not shown; Enter {otherwise})"
    return click.prompt(asked, default="", show_default=False, hide_input=True).strip() or None


def _keep_tags(config: Config, tags: tuple[str, ...]) -> None:
    held, wanted = ", ".join(tags) or "none", ", ".join(config.tailscale.tags) or "none"
    click.echo(f"this host's tags stay {held}; with a key they become {wanted}: make mesh-setup AUTHKEY=...")


def _skip(config: Config, *, optional: bool) -> None:
    """Goes on without Tailscale, where that is enough.

    Raises:
        StartError: if it is not, or nobody could be asked for a key.
    """
    if config.tailscale.mode == "tailscale" or not (optional or sys.stdin.isatty()):
        raise key_needed()
    _finish(config, None, "without Tailscale: hosts meet on the network where NATS is reached")


def _ask() -> None:
    if not sys.stdin.isatty():
        raise StartError("nobody can be asked here; if that is right, run it with --yes (make: YES=1)")
    click.confirm("run it?", abort=True, default=False)


def _finish(config: Config, status: TailscaleStatus | None, word: str) -> None:
    path = write_mesh_file(config, status)
    if word:
        click.echo(word)
    myself = status.myself if status is not None else None
    if myself is not None:
        addresses = ", ".join(filter(None, (myself.ipv4, myself.ipv6)))
        click.echo(f"{config.node} is in the tailnet as {myself.name}: {addresses}")
    click.echo(f"wrote {path}")


def _tailscale(problems: list[str]) -> TailscaleStatus | None:
    """Returns what Tailscale says; None if it says nothing of use, which is added to the problems."""
    try:
        status = Tailscale(locate(os.environ), os.environ).status()
        problem = stopped(status, SystemClock().now_ms())
    except TailscaleError as error:
        problem = error
    if problem is None:
        return status
    problems.append(str(problem))
    return None


def _nodes(config: Config, problems: list[str]) -> list[MeshNode]:
    try:
        records = AgentClient(config).get("/api/nodes").records("nodes")
    except click.ClickException as error:
        problems.append(error.format_message())
        return []
    return [_node(record) for record in records]


def _node(record: dict[str, Any]) -> MeshNode:
    address = record.get("tailscale_ip")
    return MeshNode(
        name=str(record.get("name") or ""),
        status=str(record.get("status") or ""),
        host=str(record.get("host") or ""),
        tailscale_ip=str(address) if address else None,
        last_seen=str(record.get("last_seen") or ""),
    )
