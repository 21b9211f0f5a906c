"""`diff`: what is different in the registry between two moments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import click

from pmoves_mesh.cli.biography import changes
from pmoves_mesh.cli.client import AgentClient, Answer, read_config
from pmoves_mesh.cli.console import Column, example, print_json, print_table
from pmoves_mesh.cli.moments import MOMENT, NOW, Moment, shown_time
from pmoves_mesh.cli.pipes import while_read
from pmoves_mesh.cli.progress import shown_progress
from pmoves_mesh.cli.queries import json_option, with_address

_COLUMNS: Final = (
    Column("", "sign"),
    Column("SERVICE", "service"),
    Column("ID", "id"),
    Column("NODE", "node"),
    Column("CHANGE", "change"),
)
_ANSWER_S: Final = 30.0


@click.command(
    "diff",
    epilog=example(
        "pmoves-mesh diff --from 1h",
        "pmoves-mesh diff --from '2026-11-23T06:00' --to '2026-11-23T07:00' --json | jq .removed",
    ),
)
@click.option("--from", "begin", type=Moment(), required=True, help=f"The earlier moment: {MOMENT}.")
@click.option("--to", "end", type=Moment(), default=NOW, help="The later moment, likewise; now by default.")
@json_option
def diff_command(*, begin: str, end: str, as_json: bool) -> None:
    """Show what is different in the registry between two moments: + came, - went, ~ changed.

    A line without a service is of a node. When something was last seen is no difference.
    """
    with shown_progress("reading the stream", as_json=as_json):
        answer = AgentClient(read_config(), _ANSWER_S).get("/api/diff", {"from": begin, "to": end})
    with while_read():
        if as_json:
            print_json(answer.fields)
            return
        print_table(_COLUMNS, _rows(answer), empty="nothing is different")
        click.echo(f"from {_moment(answer, 'from')} to {_moment(answer, 'to')}", err=True)


def _moment(answer: Answer, field: str) -> str:
    found = answer.record(field)
    return f"{shown_time(found.get('time'))} (position {found.get('position')})"


def _rows(answer: Answer) -> Iterator[dict[str, Any]]:
    nodes = Answer("", answer.record("nodes"), answer.status)
    for sign, field in (("+", "added"), ("-", "removed"), ("~", "changed")):
        yield from (_row(sign, one, is_node=True) for one in nodes.records(field))
        yield from (_row(sign, one, is_node=False) for one in answer.records(field))


def _row(sign: str, one: dict[str, Any], *, is_node: bool) -> dict[str, Any]:
    record: dict[str, Any] = one["after"] if sign == "~" else one
    row = {"sign": sign, "change": _change(sign, one, record)}
    if is_node:
        return {**row, "node": record.get("name")}
    return {**row, "service": record.get("name"), "id": record.get("id"), "node": record.get("node")}


def _change(sign: str, one: dict[str, Any], record: dict[str, Any]) -> str:
    if sign != "~":
        return str(with_address(record)["address"] or "")
    fields: Sequence[str] = one.get("fields") or ()
    return changes(one["before"], one["after"], fields)
