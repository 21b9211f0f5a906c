"""`history`: what happened to one service, from its first event that is kept to its last."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import Any, Final

import click

from pmoves_mesh.cli.biography import Biography, Happening
from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import Column, example, print_json, print_table
from pmoves_mesh.cli.events import PATH, pages, shown_signer
from pmoves_mesh.cli.moments import MOMENT, Moment, shown_time
from pmoves_mesh.cli.pipes import while_read
from pmoves_mesh.cli.progress import shown_progress
from pmoves_mesh.progress import Progress

_COLUMNS: Final = (
    Column("TIME", "time"),
    Column("WHAT", "what"),
    Column("NODE", "node"),
    Column("ID", "id"),
    Column("DETAIL", "detail"),
    Column("SIGNED BY", "by"),
    Column("POSITION", "position"),
)
_OF_EVENT: Final = ("time", "position", "what", "node", "id", "detail")
_OF_PROOF: Final = ("subject", "type", "verified", "signer", "fingerprint", "refused")
_NODE_SUBJECTS: Final = "mesh.node.>"


@click.command(
    "history",
    epilog=example("pmoves-mesh history whisper", "pmoves-mesh history whisper --since 7d --json"),
)
@click.argument("service")
@click.option("--since", type=Moment(), help=f"Only from a moment on: {MOMENT}.")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def history_command(*, service: str, since: str | None, as_json: bool) -> None:
    """Show what happened to SERVICE: where it came, how it was, where it went, when, and who signed that.

    It is read from the events in the stream, each of whose signatures is checked; what is older than the
    stream keeps is not known any more.
    """
    client = AgentClient(read_config())
    name = service.lower()
    with shown_progress("reading the stream", as_json=as_json) as told:
        first = 0 if since is None else _first(client, since)
        found = [one for one in _happenings(client, name, told) if int(one.event["position"]) >= first]
    if not found and since is None:
        raise click.ClickException(f"the stream tells nothing of a service {name}; see: pmoves-mesh services")
    with while_read():
        if as_json:
            print_json({"service": name, "count": len(found), "history": [_as_json(one) for one in found]})
        else:
            print_table(_COLUMNS, map(_row, found), empty="nothing happened since")


def _first(client: AgentClient, since: str) -> float:
    """Returns the first position at or after a moment: what a service was before tells what is new."""
    found = client.get(PATH, {"since": since, "order": "asc", "limit": "1"}).records("events")
    return int(found[0]["position"]) if found else inf


def _happenings(client: AgentClient, service: str, told: Progress) -> Iterator[Happening]:
    """Yields what happened, in its order; a service goes with its node, so that is looked at too."""
    events = {int(one["position"]): one for one in pages(client, {"service": service}, told)}
    for node in sorted({str(one["node"]) for one in events.values() if one.get("node")}):
        of_node = pages(client, {"node": node, "subject": _NODE_SUBJECTS}, told)
        events.update((int(one["position"]), one) for one in of_node)
    biography = Biography(service)
    for position in sorted(events):
        yield from biography.take(events[position])


def _row(one: Happening) -> dict[str, Any]:
    fields = _fields(one)
    return {**fields, "time": shown_time(fields["time"]), "by": shown_signer(dict(one.event))}


def _fields(one: Happening) -> dict[str, Any]:
    said = {"what": one.what, "node": one.node, "id": one.id, "detail": one.detail}
    around = {**one.event, **said}
    return {name: around.get(name) for name in _OF_EVENT}


def _as_json(one: Happening) -> dict[str, Any]:
    return {**_fields(one), **{name: one.event.get(name) for name in _OF_PROOF}}
