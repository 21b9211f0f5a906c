"""`init`, `version` and `completion`: what a newcomer runs once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from pmoves_mesh import __version__
from pmoves_mesh.cli.console import example
from pmoves_mesh.errors import StartError

_TEMPLATE: Final = """\
# Settings of this host's agent. The environment goes before this file; what stays commented has its default.

# The mesh: every host with this name, and an identity from its CA, belongs together.
#PMOVES_MESH_NAME=pmoves-mesh

# This node's name in the mesh. Default: the host's name.
#MESH_HOSTNAME=

# docked: uses the mesh's central NATS. standalone: also works alone.
#SERVICE_MODE=docked

# What this node can do, with commas between.
#NODE_CAPABILITIES=gpu,stt

# The mesh's NATS server. Unset: this agent starts and looks after its own nats-server.
#NATS_URL=nats://127.0.0.1:4222

# Port of that own nats-server.
#PMOVES_NATS_PORT=4222

# Where the agent answers HTTP. Anything but loopback needs the token below for writes.
#SERVICE_REGISTRY_HOST=127.0.0.1
#SERVICE_REGISTRY_PORT=8100
#SERVICE_REGISTRY_TOKEN=

# Where the agent keeps its state, and where its keys and certificates are.
#PMOVES_DATA_DIR=data
#PMOVES_TLS_DIR=tls
"""


@click.command("init", epilog=example("pmoves-mesh init"))
def init_command() -> None:
    """Write an env.shared with the essential settings, each explained.

    An env.shared that is there already is never changed. Only its owner may read the new file,
    because it may come to hold secrets.
    """
    path = Path("env.shared")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError as error:
        raise StartError(f"{path} is there already and was left as it is") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(_TEMPLATE)
    click.echo(f"wrote {path}; every setting in it is optional. Next: pmoves-mesh up")


@click.command("version", epilog=example("pmoves-mesh version"))
def version_command() -> None:
    """Show the version."""
    click.echo(f"pmoves-mesh {__version__}")


@click.command("completion", epilog=example('eval "$(pmoves-mesh completion bash)"'))
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    root = ctx.find_root()
    completion = get_completion_class(shell)
    if completion is None:
        raise click.UsageError(f"no completion is known for {shell}")
    program = root.info_name or "pmoves-mesh"
    variable = f"_{program}_COMPLETE".replace("-", "_").upper()
    click.echo(completion(root.command, {}, program, variable).source())
