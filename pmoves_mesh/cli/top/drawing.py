"""Drawing: what a terminal of some size shows of the board."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pmoves_mesh.cli.console import cell
from pmoves_mesh.cli.top.board import Board
from pmoves_mesh.cli.top.screen import Page, Screen

_STYLES: Final = {
    "healthy": "green",
    "alive": "green",
    "unhealthy": "bold red",
    "node lost": "bold red",
    "lost": "bold red",
    "no": "bold red",
    "node left": "yellow",
    "left": "yellow",
    "unknown": "yellow",
    "maintenance": "yellow",
}
_KEYS: Final = "q quit  1 services 2 nodes 3 events  s sort  r reverse  / filter  j k move"
_ROOM_FOR_ALL: Final = 6


def draw(board: Board, screen: Screen, title: str, size: tuple[int, int], now_ms: int) -> RenderableType:
    """Returns the whole screen: a head, what is wrong, the list, and the keys; as far as there is room.

    Args:
        board: what is known.
        screen: what is looked at.
        title: whose mesh it is.
        size: columns and lines of the terminal.
        now_ms: unix milliseconds.
    """
    width, height = size
    head: list[Text] = []
    if height >= _ROOM_FOR_ALL:
        head.append(_line(f"{title}  {board.counts}  {_clock(now_ms)}{_position(board)}", "bold"))
    if warning := board.warning() or _problem(board, screen):
        head.append(_line(f" {warning} ", "bold white on red"))
    has_keys = height >= _ROOM_FOR_ALL or screen.is_typing
    room = height - len(head) - has_keys
    has_summary = height >= _ROOM_FOR_ALL
    room -= has_summary
    page = screen.page(width, room - 1, now_ms)
    body: list[RenderableType] = [*head]
    if has_summary:
        body.append(_line(_summary(screen, page), "dim"))
    body.append(_table(screen, page))
    body.extend(Text("") for _ in range(room - 1 - len(page.rows)))
    if has_keys:
        body.append(_keys(screen))
    return Group(*body)


def _table(screen: Screen, page: Page) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="reverse", padding=(0, 1, 0, 0))
    by, is_reversed = screen.sorted_by
    for column in page.columns:
        mark = ("-" if is_reversed else "+") if column.heading == by else ""
        table.add_column(
            Text(column.heading + mark),
            width=column.width or None,
            ratio=column.share or None,
            no_wrap=True,
            overflow="ellipsis",
        )
    for row in page.rows:
        cells = (Text(text, style="" if row.is_selected else _STYLES.get(text, "")) for text in row.cells)
        table.add_row(*cells, style="reverse" if row.is_selected else "")
    return table


def _summary(screen: Screen, page: Page) -> str:
    of = "" if page.found == page.total else f" of {page.total}"
    by, is_reversed = screen.sorted_by
    filtered = f", filter: {screen.filter}" if screen.filter and not screen.is_typing else ""
    return f"{page.found}{of} {screen.view}, by {by}{' backwards' if is_reversed else ''}{filtered}"


def _keys(screen: Screen) -> Text:
    if screen.is_typing:
        return _line(f"filter: {screen.filter}_   Enter keeps it, Esc clears it", "bold")
    return _line(_KEYS, "dim")


def _position(board: Board) -> str:
    pulse = board.pulse
    return "" if pulse is None or pulse.position is None else f"  position {pulse.position}"


def _clock(now_ms: int) -> str:
    return f"{datetime.fromtimestamp(now_ms / 1000).astimezone():%H:%M:%S}"


def _problem(board: Board, screen: Screen) -> str:
    return board.problems.get(screen.view, "")


def _line(text: str, style: str) -> Text:
    return Text(cell(text), style=style, no_wrap=True, overflow="ellipsis", end="\n")
