"""`first-run`: from nothing to a host of a mesh of several, in one go; again, it does what is left."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

import click
from dotenv import dotenv_values

from pmoves_mesh.agent import lan
from pmoves_mesh.agent.pidfile import running_pid
from pmoves_mesh.agent.trust.joining import check_reachable
from pmoves_mesh.cli import certs, envfile, join, lifecycle, setup
from pmoves_mesh.cli.client import read_config
from pmoves_mesh.cli.console import cell, example
from pmoves_mesh.cli.tailscale import set_up
from pmoves_mesh.cli.tailscale_setup import write_mesh_file
from pmoves_mesh.config import Config
from pmoves_mesh.errors import StartError
from pmoves_mesh.pki import keystore, tokens
from pmoves_mesh.values import ENV_FILE

_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - what other hosts are to reach; both speak mutual TLS there


@click.command(
    "first-run", epilog=example("pmoves-mesh first-run", "pmoves-mesh first-run --token pmoves1-... --yes")
)
@click.option("--token", help="Of the mesh to join. Default: asked for; none begins a mesh here.")
@click.option("--yes", "agreed", is_flag=True, help="Run the commands that set Tailscale up without asking.")
@click.pass_context
def first_run_command(ctx: click.Context, *, token: str | None, agreed: bool) -> None:
    """Set this host up for a mesh of several: Tailscale, the mesh itself, certificates, and its agent.

    It asks only for what it cannot know, and only on a terminal: the key for Tailscale, and the token of
    the mesh to join. What is done already is left as it is, so it may be run again at any time.
    """
    if not (Path.cwd() / ENV_FILE).exists():
        ctx.invoke(setup.init_command)
    status = set_up(read_config(), agreed=agreed, optional=True)
    changed = _take_part(ctx, read_config(), token)
    config = read_config()
    if keystore.has_authority(config.tls_dir):
        ctx.invoke(certs.init_command, force=False, ask=False)
    if changed and running_pid(config.data_dir / "agent.pid") is not None:
        click.echo("other hosts must reach this agent, so it is started anew")
        ctx.invoke(lifecycle.down_command)
    ctx.invoke(lifecycle.up_command)
    write_mesh_file(config, status)
    _tell_what_is_next(config)


def _take_part(ctx: click.Context, config: Config, token: str | None) -> bool:
    """Makes this host a part of a mesh, if it is of none; returns whether that changed its settings."""
    mesh = join.present_mesh(config)
    if mesh is not None:
        click.echo(f"this host is in mesh {mesh} already")
        if token is not None and (wanted := tokens.decode(token).mesh) != mesh:
            raise StartError(f"the token is for mesh {wanted}; to change: pmoves-mesh join TOKEN --force")
    else:
        token = token or _asked_token()
        if token is not None:
            ctx.invoke(join.join_command, token=token, name=None, force=False)
            return True
    if mesh is not None and not keystore.has_authority(config.tls_dir):
        return False  # others need not reach it
    return _open(config)


def _asked_token() -> str | None:
    if not sys.stdin.isatty():
        return None
    for hub in asyncio.run(lan.find()):
        click.echo(f"on this network: mesh {hub.mesh}, whose CA node {hub.node} keeps, as it says itself")
    asked = "token of the mesh to join (there: pmoves-mesh token create; Enter begins a mesh here)"
    return click.prompt(asked, default="", show_default=False).strip() or None


def _open(config: Config) -> bool:
    """Lets other hosts reach this one, where no setting says otherwise; returns whether that is new."""
    wanted = {"SERVICE_REGISTRY_HOST": _EVERYWHERE}
    if config.embedded:
        wanted["PMOVES_NATS_HOST"] = _EVERYWHERE
    held = dotenv_values(Path.cwd() / ENV_FILE, interpolate=False, encoding="utf-8-sig")
    missing = {
        name: value
        for name, value in wanted.items()
        if not (os.environ.get(name, "").strip() or (held.get(name) or "").strip())
    }
    if not missing:
        return False
    path = envfile.merge(Path.cwd(), missing)
    click.echo(f"set     {', '.join(f'{name}={value}' for name, value in missing.items())} in {path}")
    return True


def _tell_what_is_next(config: Config) -> None:
    if keystore.has_authority(config.tls_dir):
        try:
            check_reachable(config)
        except StartError as error:
            click.echo(cell(f"no other host can join: {error}"), err=True)
            return
        click.echo("on each further host: make first-run-multi-host TOKEN=..., each with a token from here:")
        click.echo("  pmoves-mesh token create")
    click.echo("see the mesh: make registry-status; the mesh beside the tailnet: make mesh-status")
