"""`pmoves-mesh watch`: changes of the registry as they happen, through breaks of the connection too."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import cell, example
from pmoves_mesh.cli.event_stream import StreamEvent, follow
from pmoves_mesh.cli.pipes import while_read
from pmoves_mesh.cli.queries import with_address

Key = tuple[str, str, str]


@click.command(
    "watch",
    epilog=example(
        "pmoves-mesh watch --capability stt --healthy-only", "pmoves-mesh watch --json | jq -c .data"
    ),
)
@click.option("--name", help="Only instances of this service.")
@click.option("--capability", multiple=True, help="Only instances with this capability; may be repeated.")
@click.option("--node", help="Only instances on this node.")
@click.option("--healthy-only", is_flag=True, help="Only instances that are healthy and can be discovered.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
def watch_command(
    *, name: str | None, capability: tuple[str, ...], node: str | None, healthy_only: bool, as_json: bool
) -> None:
    """Show the services now, and every change as it happens, until it is interrupted.

    When the connection breaks it comes back, and goes on where it was.
    """
    query = {"name": name, "capability": ",".join(capability), "node": node}
    asked = {parameter: value for parameter, value in query.items() if value}
    if healthy_only:
        asked["healthy_only"] = "true"
    show = _print_event if as_json else _Lines().show
    with while_read(is_endless=True):
        for event in follow(AgentClient(read_config()), "/api/watch", asked):
            show(event)
            sys.stdout.flush()


def _print_event(event: StreamEvent) -> None:
    click.echo(json.dumps({"event": event.name, "position": int(event.position), "data": event.data}))


class _Lines:
    """One line for each change. A snapshot that comes again is told as what is different by then."""

    def __init__(self) -> None:
        self._held: dict[Key, dict[str, Any]] = {}
        self._begun = False

    def show(self, event: StreamEvent) -> None:
        """Prints an event."""
        if event.name == "snapshot":
            self._show_all({_key(one): one for one in event.data["services"]})
        elif event.name == "removed":
            self._remove(_key(event.data))
        elif event.name in {"added", "changed"}:
            self._put(_key(event.data), event.data)

    def _show_all(self, found: dict[Key, dict[str, Any]]) -> None:
        for key in self._held.keys() - found.keys():
            self._remove(key)
        for key, record in found.items():
            if not self._begun:
                self._held[key] = record
                _print_line("", record)
            elif _line(record) != _line(self._held.get(key, {})):
                self._put(key, record)
        self._begun = True

    def _put(self, key: Key, record: dict[str, Any]) -> None:
        sign = "~" if key in self._held else "+"
        self._held[key] = record
        _print_line(sign, record)

    def _remove(self, key: Key) -> None:
        record = self._held.pop(key, None)
        if record is not None:
            _print_line("-", record)


def _key(record: dict[str, Any]) -> Key:
    return record["name"], record["node"], record["id"]


def _print_line(sign: str, record: dict[str, Any]) -> None:
    click.echo(f"{sign or ' '} {_line(record)}".rstrip())


def _line(record: dict[str, Any]) -> str:
    """Returns an instance as one line; of its node only what is unusual."""
    notes = [
        cell(record.get("health_status")),
        "" if record.get("node_status") == "alive" else f"node {cell(record.get('node_status'))}",
        "in maintenance" if record.get("maintenance") else "",
    ]
    place = f"{cell(record.get('name'))}/{cell(record.get('id'))} on {cell(record.get('node'))}"
    return f"{place}  {cell(with_address(record)['address'])}  {', '.join(filter(None, notes))}"
