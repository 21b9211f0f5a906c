"""`top`: the command, and the loop between what the mesh tells, what somebody presses and what they see."""

from __future__ import annotations

import signal
import sys
from typing import Final

import click

from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import example, print_json
from pmoves_mesh.cli.pipes import while_read
from pmoves_mesh.cli.queries import json_option, print_instances
from pmoves_mesh.clock import SystemClock
from pmoves_mesh.config import Config

_CLOCK_S: Final = 1.0
_BETWEEN_DRAWINGS_S: Final = 0.1


@click.command("top", epilog=example("pmoves-mesh top", "ssh -t jetson pmoves-mesh top"))
@json_option
def top_command(*, as_json: bool) -> None:
    """Show the mesh as it is now, and every change as it happens, until q is pressed.

    1, 2 and 3 show services, nodes and events; s sorts by the next column, r the other way round; /
    filters; arrows or j and k move. Where there is no terminal to draw on, it prints the services once.
    """
    config = read_config()
    client = AgentClient(config)
    if as_json:
        with while_read():
            print_json(client.get("/api/status").fields)
        return
    # Imported here: where nothing is drawn, none of it is needed, and it takes long to import.
    from pmoves_mesh.cli.top.terminal import die_of, is_drawable  # noqa: PLC0415 - see above

    services = client.get("/api/services")
    if not is_drawable():
        with while_read():
            print_instances(services.records("services"))
        return
    if number := _look(config):
        die_of(number)


def _look(config: Config) -> int | None:
    """Draws until somebody has had enough; returns the signal that ended it, if that is to kill."""
    from pmoves_mesh.cli.top.board import Board  # noqa: PLC0415 - see above
    from pmoves_mesh.cli.top.drawing import draw  # noqa: PLC0415 - see above
    from pmoves_mesh.cli.top.feed import Feed  # noqa: PLC0415 - see above
    from pmoves_mesh.cli.top.screen import Screen  # noqa: PLC0415 - see above
    from pmoves_mesh.cli.top.terminal import Terminal, ending, stop_here  # noqa: PLC0415 - see above

    # A terminal whose letters are not ours shows what it lacks as an escape.
    getattr(sys.stdout, "reconfigure", lambda **_: None)(errors="backslashreplace")
    board, clock = Board(), SystemClock()
    screen, title = Screen(board), f"{config.node} of mesh {config.mesh}"
    with Terminal() as terminal, Feed(config, terminal.wake) as feed:
        drawn_s, is_due = 0.0, True
        while not screen.is_over:
            now_s = clock.monotonic_s()
            if is_due and now_s - drawn_s >= _BETWEEN_DRAWINGS_S:
                terminal.show(draw(board, screen, title, terminal.size, clock.now_ms()))
                drawn_s, is_due = now_s, False
            heard = terminal.wait(_BETWEEN_DRAWINGS_S if is_due else _CLOCK_S)
            if heard.is_gone:
                return signal.SIGHUP
            if (number := ending(heard.signals)) is not None:
                return None if number == signal.SIGINT else number
            if signal.SIGTSTP in heard.signals:
                with terminal.given_back():
                    stop_here()
            for key in heard.keys:
                screen.press(key)
            for news in feed.news():
                board.take(news)
            if screen.view == "events":
                feed.tell_events()
            feed.tell_loads(screen.nodes_in_sight())
            # Once a second at least: the ages and the clock go on.
            is_due = True
    return None
