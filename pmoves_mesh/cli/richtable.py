"""Tables on a terminal: the one module that imports rich."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_lines(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Prints a table as wide as the terminal; the cells are plain text, never markup."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for line in lines:
        table.add_row(*(Text(text) for text in line))
    # Nothing is known of a terminal without a name; one called dumb is known to rich.
    Console(color_system="auto" if os.environ.get("TERM") else None).print(table)
