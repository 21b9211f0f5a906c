"""`events`: what the mesh's stream tells, event by event; and by `events tail` what applications tell."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import click
from click.core import ParameterSource

from pmoves_mesh.cli.client import AgentClient, read_config
from pmoves_mesh.cli.console import cell, example, json_text
from pmoves_mesh.cli.event_stream import follow
from pmoves_mesh.cli.moments import MOMENT, Moment, shown_time
from pmoves_mesh.cli.pipes import while_read
from pmoves_mesh.progress import Progress, unheard

PATH: Final = "/api/events"

_PAGE: Final = 1000
_LATEST: Final = 100

Record = dict[str, Any]


class _Group(click.Group):
    """A group that imports `tail` when it is asked for: it alone speaks NATS, which takes long to import."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the one name."""
        del ctx
        return ["tail"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Imports the command's module."""
        del ctx
        if cmd_name != "tail":
            return None
        from pmoves_mesh.cli.tail import tail_command  # noqa: PLC0415 - see above

        return tail_command


@click.group(
    "events",
    cls=_Group,
    invoke_without_command=True,
    subcommand_metavar="[tail SUBJECT]",
    epilog=example(
        "pmoves-mesh events --follow",
        "pmoves-mesh events --since 1h --subject 'service.registry.>' --json | jq -c .type",
        "pmoves-mesh events tail 'ingest.>'",
    ),
)
@click.option("--follow", "-f", is_flag=True, help="Go on with what comes, until it is interrupted.")
@click.option("--since", type=Moment(), help=f"Begin at a moment, not with the latest {_LATEST}: {MOMENT}.")
@click.option("--subject", help="Only on this subject, which may hold wildcards.")
@click.option("--node", help="Only what is about this node.")
@click.option("--service", help="Only what is about this service.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
@click.pass_context
def events_command(
    context: click.Context,
    *,
    follow: bool,
    since: str | None,
    subject: str | None,
    node: str | None,
    service: str | None,
    as_json: bool,
) -> None:
    """Show the events of the mesh, the oldest first: when, where in the stream, what, and who signed it.

    Each signature is checked when the event is read. What applications tell is shown by `events tail`.
    """
    if context.invoked_subcommand is not None:
        _refuse_options(context)
        return
    query = {"subject": subject, "node": node, "service": service}
    asked = {name: value for name, value in query.items() if value is not None}
    show = _as_json if as_json else _as_line
    with while_read(is_endless=follow):
        for event in _told(AgentClient(read_config()), asked, since, follow=follow):
            click.echo(show(event))
            sys.stdout.flush()


def pages(client: AgentClient, query: dict[str, str], told: Progress = unheard) -> Iterator[Record]:
    """Yields every event that matches, the oldest first.

    Args:
        client: the agent that is asked.
        query: what must match, and `since` or `after` if not everything is wanted.
        told: is told how far the stream has been read.

    Raises:
        click.ClickException: if no agent answers, or it answers with a problem.
    """
    query = {"after": "0", **query} if "since" not in query else query
    while True:
        answer = client.get(PATH, {**query, "order": "asc", "limit": str(_PAGE)})
        yield from answer.records("events")
        reached = answer.fields.get("next")
        if not answer.fields.get("more") or not isinstance(reached, int):
            return
        first, last = (int(answer.record(name)["position"]) for name in ("first", "last"))
        told("reading the stream", max(0, reached - first), max(1, last - first))
        query = {name: value for name, value in query.items() if name != "since"} | {"after": str(reached)}


def shown_signer(event: Record) -> str:
    """Returns who signed an event, in a few letters."""
    signer = cell(event.get("signer"))
    return signer.split("/", 3)[-1] if signer.startswith("spiffe://") else signer or "nobody"


def shown_type(event: Mapping[str, Any]) -> str:
    """Returns what kind of event it is, in a few letters: what tells it from the others."""
    kind = cell(event.get("type") or event.get("subject"))
    return kind.removeprefix("mesh.").removesuffix(".v1") if kind.startswith("mesh.") else kind


def _refuse_options(context: click.Context) -> None:
    typed = ParameterSource.COMMANDLINE
    given = [name for name in context.params if context.get_parameter_source(name) is typed]
    if given:
        raise click.UsageError(f"--{given[0].removeprefix('as_')} belongs after: events tail SUBJECT")


def _told(client: AgentClient, query: dict[str, str], since: str | None, *, follow: bool) -> Iterator[Record]:
    """Yields events, and then those that come, if they are wanted."""
    begin = _latest if since is None else lambda asker, asked: pages(asker, {**asked, "since": since})
    position = _position(client) if follow else 0
    for event in begin(client, query):
        yield event
        position = max(position, int(event["position"]))
    if follow:
        yield from _following(client, query, position)


def _following(client: AgentClient, query: dict[str, str], position: int) -> Iterator[Record]:
    return (one.data for one in follow(client, PATH, query, after=str(position)) if one.name == "event")


def _position(client: AgentClient) -> int:
    """Returns up to where the stream goes, so that nothing is missed that comes after."""
    last = client.get(PATH, {"order": "desc", "limit": "1"}).fields.get("last")
    return int(last["position"]) if isinstance(last, dict) else 0


def _latest(client: AgentClient, query: dict[str, str]) -> Iterator[Record]:
    """Yields the latest events that match; an agent looks through only so much of the stream at once."""
    found: list[Record] = []
    while True:
        answer = client.get(PATH, {**query, "order": "desc", "limit": str(_LATEST - len(found))})
        found += answer.records("events")
        reached = answer.fields.get("next")
        if len(found) >= _LATEST or not answer.fields.get("more") or not isinstance(reached, int):
            break
        query = {**query, "before": str(reached)}
    yield from reversed(found)


def _as_json(event: Record) -> str:
    return json_text(event)


def _as_line(event: Record) -> str:
    proof = f"refused: {cell(event['refused'])}" if event.get("refused") else f"by {shown_signer(event)}"
    parts = [
        cell(shown_time(event.get("time"))),
        f"{cell(event.get('position')):>7}",
        f"{shown_type(event):<13}",
        _about(event),
        _summary(event),
        proof,
    ]
    return "  ".join(part for part in parts if part)


def _about(event: Record) -> str:
    """Returns what an event is about: an instance on its node, or a node."""
    what = "/".join(cell(event[field]) for field in ("service", "id") if event.get(field))
    return " on ".join(part for part in (what, cell(event.get("node"))) if part)


def _summary(event: Record) -> str:
    """Returns the one thing that is worth knowing of an event, beside what it is about."""
    data = event.get("data")
    if not isinstance(data, dict):
        return ""
    inner = data.get("data")
    record = inner if isinstance(inner, dict) else data
    saying: Callable[[Record], object] = _SAYINGS.get(str(event.get("type")), lambda _: "")
    return cell(saying(record))


def _address(record: Record) -> str:
    return f"{record.get('host')}:{record.get('port')}"


_SAYINGS: Final[dict[str, Callable[[Record], object]]] = {
    "registered": _address,
    "updated": _address,
    "health": lambda record: record.get("health_status"),
    "maintenance": lambda record: "on" if record.get("maintenance") else "off",
    "mesh.node.announce.v1": _address,
    "mesh.node.lost.v1": lambda record: record.get("reason"),
    "mesh.node.leave.v1": lambda record: record.get("reason"),
    "evicted": lambda record: "lifted" if record.get("lifted") else record.get("reason"),
}
