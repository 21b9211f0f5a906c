"""The screen: which list is looked at, how it is sorted and filtered, and what each key does to that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from pmoves_mesh.cli.console import cell
from pmoves_mesh.cli.top.board import Board, Key, Record
from pmoves_mesh.cli.top.columns import VIEWS, Asked, Column, View, ViewName

_FILTER_MAX: Final = 200
_PAGE: Final = 10


class Row(NamedTuple):
    """A line of the list as it is drawn; its cells hold nothing that could steer a terminal."""

    cells: tuple[str, ...]
    is_selected: bool


class Page(NamedTuple):
    """The part of the list that there is room for.

    Attributes:
        columns: those for which there is room.
        rows: a cell for each column.
        found: how many records match the filter.
        total: how many there are.
    """

    columns: tuple[Column, ...]
    rows: list[Row]
    found: int
    total: int


@dataclass
class _Position:
    """Where somebody is in one of the lists."""

    sorted_by: int = 0
    is_reversed: bool = False
    selected: Key | None = None
    index: int = 0
    first: int = 0


class Screen:
    """What somebody looks at, and what they did to see it.

    Attributes:
        view: the list that is looked at.
        filter: what all of its lines contain.
        is_typing: whether keys go into the filter.
        is_over: whether somebody has had enough.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self.view: ViewName = "services"
        self.filter = ""
        self.is_typing = False
        self.is_over = False
        self._positions: Final = {
            name: _Position(is_reversed=view.is_newest_first) for name, view in VIEWS.items()
        }
        self._sorted: tuple[object, list[Record], int] = (None, [], 0)
        self._columns: tuple[Column, ...] = ()
        self._height = 1

    @property
    def sorted_by(self) -> tuple[str, bool]:
        """The heading of the column that the list is sorted by, and whether backwards."""
        position = self._positions[self.view]
        return VIEWS[self.view].columns[position.sorted_by].heading, position.is_reversed

    def press(self, key: str) -> None:
        """Does what a key says."""
        if self.is_typing:
            self._type(key)
        elif step := self._steps().get(key):
            self._move(step)
        else:
            self._command(key)

    def page(self, width: int, height: int, now_ms: int) -> Page:
        """Returns what to draw.

        Args:
            width: of the terminal, in characters.
            height: lines that there are for rows.
            now_ms: unix milliseconds.
        """
        view, position, asked = VIEWS[self.view], self._positions[self.view], Asked(self._board, now_ms)
        self._height = max(1, height)
        self._columns = tuple(one for one in view.columns if one.needs <= width)
        records, total = self._matching(view, asked)
        self._settle(view, position, records)
        shown = records[position.first : position.first + max(0, height)]
        rows = [
            Row(
                tuple(cell(column.value(record, asked)) for column in self._columns),
                position.first + number == position.index,
            )
            for number, record in enumerate(shown)
        ]
        return Page(self._columns, rows, len(records), total)

    def nodes_in_sight(self) -> list[str]:
        """Returns the names of the nodes that are in sight, if nodes are looked at."""
        if self.view != "nodes":
            return []
        position, records = self._positions["nodes"], self._sorted[1]
        return [str(one.get("name")) for one in records[position.first : position.first + self._height]]

    def _steps(self) -> dict[str, int]:
        end = len(self._sorted[1])
        page = max(1, self._height - 1)
        return {
            "up": -1,
            "k": -1,
            "down": 1,
            "j": 1,
            "page_up": -page,
            "page_down": page,
            "home": -end,
            "g": -end,
            "end": end,
            "G": end,
        }

    def _move(self, step: int) -> None:
        position, records = self._positions[self.view], self._sorted[1]
        position.index = max(0, min(position.index + step, len(records) - 1))
        position.selected = VIEWS[self.view].key(records[position.index]) if records else None

    def _command(self, key: str) -> None:
        position = self._positions[self.view]
        match key:
            case "q":
                self.is_over = True
            case "1" | "2" | "3":
                self.view = tuple(VIEWS)[int(key) - 1]
            case "tab":
                names = tuple(VIEWS)
                self.view = names[(names.index(self.view) + 1) % len(names)]
            case "s":
                self._sort_by_next(position)
            case "r":
                position.is_reversed = not position.is_reversed
            case "/":
                self.is_typing = True
            case "escape":
                self.filter = ""
            case _:
                pass

    def _sort_by_next(self, position: _Position) -> None:
        """Goes on to the next column among those in sight."""
        columns = VIEWS[self.view].columns
        shown = [number for number, column in enumerate(columns) if column in self._columns] or [0]
        position.sorted_by = next((number for number in shown if number > position.sorted_by), shown[0])
        position.is_reversed = False

    def _type(self, key: str) -> None:
        match key:
            case "enter":
                self.is_typing = False
            case "escape":
                self.is_typing, self.filter = False, ""
            case "backspace":
                self.filter = self.filter[:-1]
            case "clear":
                self.filter = ""
            case _ if len(key) == 1 and len(self.filter) < _FILTER_MAX:
                self.filter += key

    def _matching(self, view: View, asked: Asked) -> tuple[list[Record], int]:
        """Returns the records that match, sorted, and how many there are at all."""
        position = self._positions[self.view]
        state = (self._board.version, self.view, position.sorted_by, position.is_reversed, self.filter)
        if state != self._sorted[0]:
            records = view.records(self._board)
            total = len(records)
            if words := self.filter.lower().split():
                records = [one for one in records if _contains(view, one, asked, words)]
            column = view.columns[position.sorted_by]
            order = column.order or column.value
            # The second key first: a sort leaves what is equal in its order.
            records.sort(key=view.key)
            records.sort(key=lambda record: _order(order(record, asked)), reverse=position.is_reversed)
            self._sorted = (state, records, total)
        return self._sorted[1], self._sorted[2]

    def _settle(self, view: View, position: _Position, records: list[Record]) -> None:
        """Keeps the cursor on what it was on, at the very top if it was there, and in sight."""
        if position.index and position.selected is not None:
            keys = (number for number, one in enumerate(records) if view.key(one) == position.selected)
            position.index = next(keys, position.index)
        position.index = max(0, min(position.index, len(records) - 1))
        position.selected = view.key(records[position.index]) if records else None
        low = position.index - self._height + 1
        position.first = max(0, min(max(position.first, low), position.index, len(records) - 1))


def _contains(view: View, record: Record, asked: Asked, words: list[str]) -> bool:
    text = " ".join(cell(column.value(record, asked)) for column in view.columns).lower()
    return all(word in text for word in words)


def _order(value: object) -> tuple[int, float, str]:
    """Returns what values of any kind are compared by: numbers, then texts, then what is not there."""
    match value:
        case None | "":
            return (2, 0.0, "")
        case int() | float():
            return (0, float(value), "")
        case _:
            return (1, 0.0, str(value).lower())
