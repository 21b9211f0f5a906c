"""`up` and `down`: the life of this host's agent in the background."""

from __future__ import annotations

from pathlib import Path

import click

from pmoves_mesh.agent.pidfile import is_stale, running_pid
from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import example, print_fields
from pmoves_mesh.cli.launch import (
    NATS_WITHIN_S,
    Readiness,
    check_free,
    end_left_servers,
    make_data_dir,
    start,
    stop,
)
from pmoves_mesh.config import Config
from pmoves_mesh.errors import StartError


@click.command(
    "up",
    epilog=example("pmoves-mesh up", "NATS_URL=nats://10.0.0.5:4222 MESH_HOSTNAME=jetson pmoves-mesh up"),
)
def up_command() -> None:
    """Start this host's agent in the background and wait until it is ready.

    With no NATS_URL set, the agent starts and looks after its own nats-server. On the first
    start it makes the mesh's CA and this node's identity. Settings come from the environment,
    then from env.shared in this folder.
    """
    config = read_config()
    make_data_dir(config.data_dir)
    pid_path = _pid_path(config)
    client = AgentClient(config)
    pid = running_pid(pid_path)
    if pid is not None:
        click.echo(f"already running: node {config.node} (pid {pid}) at {client.url}")
        return
    if is_stale(pid_path):
        click.echo(f"the last agent did not end cleanly (stale {pid_path}); starting anew")
    check_free(config.http_host, config.http_port)
    readiness = start(config)
    if readiness is Readiness.WAITING_FOR_NATS:
        click.echo(
            f"NATS does not answer since {NATS_WITHIN_S:.0f} s: the agent runs on its own snapshot, "
            "and joins when NATS is back"
        )
    print_fields(
        [
            ("node", f"{config.node} of mesh {config.mesh}"),
            ("http", client.url),
            ("try", f"curl -s {client.url}/api/status"),
            ("log", config.data_dir / "agent.log"),
        ]
    )


@click.command("down", epilog=example("pmoves-mesh down"))
def down_command() -> None:
    """Stop this host's agent, and the nats-server it started."""
    config = read_config()
    pid_path = _pid_path(config)
    pid = running_pid(pid_path)
    if pid is not None:
        what = f"the agent of node {config.node} (pid {pid})"
        if stop(pid, pid_path):
            click.echo(f"stopped {what}{' and its nats-server' if config.embedded or config.leaf else ''}")
            return
        click.echo(f"killed {what}: it did not stop by itself")
    left = end_left_servers(config.data_dir)
    if left:
        pid_path.unlink(missing_ok=True)  # of the agent that crashed: all of it is stopped now
        for one in left:
            click.echo(f"stopped the nats-server (pid {one}) that the agent left")
    elif pid is None and is_stale(pid_path):
        raise StartError(f"no agent is running: {pid_path} is stale, its process is gone")
    elif pid is None:
        raise StartError(f"no agent is running with {config.data_dir}")


def _pid_path(config: Config) -> Path:
    return config.data_dir / "agent.pid"
