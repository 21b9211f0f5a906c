"""`agent`: this host's agent in the foreground."""

from __future__ import annotations

import gc
import sys

import click

from pmoves_mesh.cli.console import example
from pmoves_mesh.cli.lean import import_lean


@click.command("agent", epilog=example("pmoves-mesh agent"))
def agent_command() -> None:
    """Run the agent in the foreground until SIGTERM or Ctrl-C.

    This is what a service manager starts; `pmoves-mesh up` runs it in the background.
    """
    # What is imported and loaded at the start stays, so looking for garbage in it would be in vain; the
    # agent turns the collector on again once it answers.
    gc.disable()
    import_lean(terminal=sys.stderr.isatty())
    # Imported here: it takes what is lean already, and `--help` does without the event loop, HTTP and NATS.
    from pmoves_mesh.agent.main import run  # noqa: PLC0415 - see above
    from pmoves_mesh.cli.client import read_config  # noqa: PLC0415 - likewise
    from pmoves_mesh.cli.launch import make_data_dir  # noqa: PLC0415 - likewise

    config = read_config()
    make_data_dir(config.data_dir)
    run(config)
