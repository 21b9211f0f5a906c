"""The entry point: finds a command's module only when the command is used, and turns errors into exit codes.

Exit codes: 0 done, 1 failed (one line on stderr), 2 wrong usage.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Final, NamedTuple

import click

from pmoves_mesh.cli.console import example
from pmoves_mesh.errors import MeshError

PROGRAM: Final = "pmoves-mesh"


class _Entry(NamedTuple):
    """Where a command is, and its line in the overview (so that `--help` imports none of them)."""

    module: str
    summary: str


_COMMANDS: Final = {
    "up": _Entry("lifecycle", "Start this host's agent in the background and wait until it is ready."),
    "down": _Entry("lifecycle", "Stop this host's agent, and the nats-server it started."),
    "agent": _Entry("agent", "Run the agent in the foreground, as a service manager wants it."),
    "status": _Entry("queries", "Show the mesh as this host sees it."),
    "nodes": _Entry("queries", "List the nodes of the mesh."),
    "services": _Entry("queries", "List the instances of every service."),
    "service": _Entry("queries", "Show one service: its best instance, and all of them."),
    "discover": _Entry("queries", "List the instances that have all of some capabilities."),
    "watch": _Entry("watch", "Show every change of the services as it happens."),
    "top": _Entry("top.command", "Show the mesh on a terminal, live and sorted."),
    "events": _Entry("events", "Show what the mesh's stream tells, or what applications tell one another."),
    "history": _Entry("history", "Show what happened to a service, and who signed that."),
    "diff": _Entry("diff", "Show what is different in the registry between two moments."),
    "register": _Entry("registration", "Register an instance of a service on this node."),
    "deregister": _Entry("registration", "Remove an instance of a service from this node."),
    "maintenance": _Entry("maintenance", "Hide a node or a service from discovery for a while."),
    "certs": _Entry("certs", "Make, renew and show certificates of the mesh."),
    "token": _Entry("token", "Let another host join the mesh."),
    "join": _Entry("join", "Make this host a node of a mesh, with a token."),
    "tailscale": _Entry("tailscale", "Make this host part of a tailnet, and see the mesh beside it."),
    "audit": _Entry("audit", "Check every signature and every link of the mesh's whole past."),
    "doctor": _Entry("doctor", "Check this host for whatever may be wrong, and say what to do about it."),
    "first-run": _Entry("first_run", "Set this host up for a mesh of several, in one go."),
    "init": _Entry("setup", "Write an env.shared with the essential settings."),
    "migrate": _Entry("streams", "Free the mesh's subjects from an older JetStream stream."),
    "bucket": _Entry("streams", "Look after the bucket that holds the registry."),
    "registry": _Entry("registry", "Bring stream, bucket and this host's agent into step."),
    "snapshot": _Entry("snapshot", "Save the registry into a signed file, or put back what the mesh lacks."),
    "completion": _Entry("setup", "Print the completion script of a shell."),
    "version": _Entry("setup", "Show the version."),
}


class _LazyGroup(click.Group):
    """A group that knows the names of its commands, and imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names in the order of a newcomer's day."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        del ctx
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = import_module(f"pmoves_mesh.cli.{entry.module}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the overview from the table alone."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in _COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=example(
        "pmoves-mesh up",
        "pmoves-mesh register whisper --port 9000 --capability stt",
        "pmoves-mesh discover stt",
    ),
)
def cli() -> None:
    """Services that find and trust each other across hosts, with no hard-coded address."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; never lets a traceback out.

    Args:
        arguments: without the program's name; None takes the process's own.
    """
    try:
        cli.main(arguments, prog_name=PROGRAM, standalone_mode=False)
    except click.UsageError as error:
        error.show()
        return 2
    except Exception as error:  # noqa: BLE001 - the last line of defence: a bug is one line too
        return _fail(_in_words(error))
    except KeyboardInterrupt:
        return _fail("interrupted")
    return 0


def _in_words(error: Exception) -> str:
    match error:
        case click.ClickException():
            return error.format_message()
        case click.Abort():
            return "interrupted"
        case MeshError() | OSError():
            return str(error)
        case _:
            return _bug(error)


def _bug(error: Exception) -> str:
    """Returns what nobody expected, and where in our code it happened."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "pmoves_mesh" in Path(frame.filename).parts] or frames
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "an unknown place"
    return f"a bug, please report it: {type(error).__name__}: {error} ({place})"


def _fail(message: str) -> int:
    click.echo(f"{PROGRAM}: {' '.join(message.split())}", err=True)
    return 1
