"""What the commands print: tables on a terminal, plain columns in a pipe, JSON on request."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import click

# Control characters beyond those that JSON escapes by itself, and what turns the direction of letters.
_STEERING: Final = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


class Column(NamedTuple):
    """A column of a table: its heading, and the field of a row that it shows."""

    heading: str
    field: str


def example(*lines: str) -> str:
    """Returns command lines as the end of a command's help."""
    return "\n  ".join(["\b\nExample:", *lines])


def print_json(value: object) -> None:
    """Prints a value as JSON, indented for people, its fields in the order they came."""
    click.echo(json_text(value, indent=2))


def json_text(value: object, indent: int | None = None) -> str:
    """Returns a value as JSON in its own letters, but for those that could steer a terminal.

    Source: RFC 8259 section 7: any character of a string may be escaped.
    """
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    return _STEERING.sub(lambda found: json.dumps(found[0])[1:-1], text)


def print_table(columns: Sequence[Column], rows: Iterable[Mapping[str, Any]], *, empty: str) -> None:
    """Prints one line a row: a table on a terminal, tab-separated columns anywhere else.

    Args:
        columns: what to show, from left to right.
        rows: the records; a field that is absent is shown as nothing.
        empty: the line for a person when there are no rows.
    """
    lines = [[cell(row.get(column.field)) for column in columns] for row in rows]
    headings = [column.heading for column in columns]
    if not sys.stdout.isatty():
        for line in [headings, *lines]:
            click.echo("\t".join(line))
    elif lines:
        # Imported here: rich takes longer to import than most commands take to run.
        from pmoves_mesh.cli.richtable import print_lines  # noqa: PLC0415 - see above

        print_lines(headings, lines)
    else:
        click.echo(empty)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Prints names and values, one a line, the values under each other."""
    pairs = [(name, cell(value)) for name, value in fields]
    width = max((len(name) for name, _ in pairs), default=0)
    for name, value in pairs:
        click.echo(f"{name:<{width}}  {value}".rstrip())


def cell(value: object) -> str:
    """Returns a value as one line of text that cannot steer a terminal.

    Names and health outputs come from other hosts, so control characters are shown, not sent.
    """
    match value:
        case None:
            text = ""
        case bool():
            text = "yes" if value else "no"
        case Mapping():
            text = ", ".join(f"{key}={item}" for key, item in value.items())
        case list() | tuple():
            text = ", ".join(str(item) for item in value)
        case _:
            text = str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
