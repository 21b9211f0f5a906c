from __future__ import annotations

import time
from typing import Any

import pytest
from rich.console import Console

from pmoves_mesh.cli.top.board import (
    Board,
    EventsTold,
    LoadsTold,
    NodesTold,
    PulseTold,
    ServicesTold,
    ServiceTold,
    SourceTold,
)
from pmoves_mesh.cli.top.columns import shown_age
from pmoves_mesh.cli.top.drawing import draw
from pmoves_mesh.cli.top.screen import Screen

NOW_MS = 1_900_000_000_000
DRAWING_S_MAX = 0.5


def instance(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": name,
        "id": "1",
        "node": "alpha",
        "host": "10.0.0.1",
        "port": 80,
        "mode": "docked",
        "capabilities": [],
        "health_status": "healthy",
        "node_status": "alive",
        "maintenance": False,
        "registered_at": "2030-03-17T17:45:40.000Z",
        **fields,
    }


def shown(screen: Screen, width: int = 80, height: int = 20) -> list[tuple[str, ...]]:
    return [row.cells for row in screen.page(width, height, NOW_MS).rows]


def names(screen: Screen, height: int = 20) -> list[str]:
    return [cells[0] for cells in shown(screen, height=height)]


def selected(screen: Screen, height: int = 20) -> str:
    (row,) = (row for row in screen.page(80, height, NOW_MS).rows if row.is_selected)
    return row.cells[0]


@pytest.fixture
def board() -> Board:
    made = Board()
    made.take(
        ServicesTold([instance("whisper"), instance("rag", health_status="unhealthy"), instance("Tts")])
    )
    return made


def lines_of(board: Board, screen: Screen, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, color_system=None, legacy_windows=False)
    drawn = console.render_lines(draw(board, screen, "alpha of mesh m", (width, height), NOW_MS))
    return ["".join(segment.text for segment in line) for line in drawn]


def test_a_list_is_sorted_whatever_the_case_of_its_letters(board: Board):
    assert names(Screen(board)) == ["rag", "Tts", "whisper"]


def test_what_comes_changes_and_goes_is_taken_up(board: Board):
    screen = Screen(board)
    board.take(ServiceTold(instance("ollama"), is_gone=False))
    board.take(ServiceTold({"name": "rag", "node": "alpha", "id": "1"}, is_gone=True))
    board.take(ServiceTold(instance("Tts", maintenance=True), is_gone=False))
    assert names(screen) == ["ollama", "Tts", "whisper"]
    assert shown(screen)[1][4] == "maintenance"
    assert board.counts == "0 nodes  3 services"


def test_by_state_what_is_worst_comes_first(board: Board):
    board.take(ServiceTold(instance("lost", node_status="lost"), is_gone=False))
    board.take(ServiceTold(instance("new", health_status="unknown"), is_gone=False))
    screen = Screen(board)
    shown(screen)
    for _ in range(4):
        screen.press("s")
    assert screen.sorted_by == ("STATE", False)
    assert names(screen) == ["rag", "lost", "new", "Tts", "whisper"]


def test_only_columns_in_sight_are_sorted_by(board: Board):
    screen = Screen(board)
    seen = []
    for _ in range(4):
        seen.append(screen.sorted_by[0])
        shown(screen, width=40)
        screen.press("s")
    assert seen == ["SERVICE", "NODE", "STATE", "AGE"]
    assert screen.sorted_by[0] == "SERVICE"


def test_the_cursor_stays_on_its_record_and_at_the_top_if_it_was_there(board: Board):
    screen = Screen(board)
    assert selected(screen) == "rag"
    screen.press("j")
    assert selected(screen) == "Tts"
    board.take(ServiceTold(instance("aaa"), is_gone=False))
    assert selected(screen) == "Tts"
    screen.press("g")
    board.take(ServiceTold(instance("000"), is_gone=False))
    assert selected(screen) == "000"


def test_the_cursor_is_always_in_sight(board: Board):
    board.take(ServicesTold([instance(f"s{number:02}") for number in range(50)]))
    screen = Screen(board)
    names(screen, 5)
    for key, expected in (
        ("G", "s49"),
        ("k", "s48"),
        ("page_up", "s44"),
        ("home", "s00"),
        ("page_down", "s04"),
    ):
        screen.press(key)
        assert selected(screen, 5) == expected
    board.take(ServicesTold([instance("s00")]))
    assert selected(screen, 5) == "s00"


def test_an_empty_list_takes_every_key():
    screen = Screen(Board())
    for key in ("j", "k", "G", "g", "s", "r", "tab", "1", "2", "3", "/", "x", "enter", "escape", "redraw"):
        screen.press(key)
        assert not shown(screen)


def test_each_view_keeps_its_own_order(board: Board):
    screen = Screen(board)
    screen.press("r")
    screen.press("2")
    assert screen.sorted_by == ("NODE", False)
    screen.press("1")
    assert screen.sorted_by == ("SERVICE", True)


def test_the_newest_event_comes_first_and_the_oldest_are_let_go():
    board = Board()
    board.take(EventsTold([{"position": number, "type": "health"} for number in range(1, 1201)]))
    screen = Screen(board)
    screen.press("3")
    page = screen.page(100, 3, NOW_MS)
    assert [row.cells[1] for row in page.rows] == ["1200", "1199", "1198"]
    assert page.total == 1000


def test_the_loads_of_the_nodes_in_sight_are_shown_and_sorted_by_the_busiest_first():
    board = Board()
    board.take(NodesTold([{"name": "idle", "status": "alive"}, {"name": "busy", "status": "alive"}]))
    board.take(LoadsTold({"idle": {"cpu": 0.02, "memory": 0.1}, "busy": {"cpu": 0.97, "memory": 0.5}}))
    screen = Screen(board)
    screen.press("2")
    shown(screen)
    assert screen.nodes_in_sight() == ["busy", "idle"]
    for _ in range(3):
        screen.press("s")
    assert screen.sorted_by[0] == "CPU"
    assert [cells[3] for cells in shown(screen)] == ["97%", "2%"]
    board.take(LoadsTold({"busy": {"cpu": 0.97, "memory": 0.5, "stale": True}}))
    assert names(screen) == ["idle", "busy"]


def test_nothing_that_others_say_steers_the_terminal(board: Board):
    evil = "\x1b[2J\x07[bold]"
    board.take(ServiceTold(instance(evil, capabilities=[evil], host=evil), is_gone=False))
    board.take(NodesTold([{"name": evil, "status": evil, "resources": {"gpu": [{"model": evil}]}}]))
    board.take(EventsTold([{"position": 1, "type": evil, "node": evil, "signer": evil, "refused": evil}]))
    board.take(SourceTold("events", evil))
    screen = Screen(board)
    for view in "123":
        screen.press(view)
        text = "".join(lines_of(board, screen, 200, 10))
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\\x1b[2J\\x07[bold]" in text


@pytest.mark.parametrize("height", [1, 2, 3, 5, 6, 24])
@pytest.mark.parametrize("width", [1, 7, 40, 80, 200])
def test_it_fits_a_terminal_of_any_size(board: Board, width: int, height: int):
    screen = Screen(board)
    board.take(PulseTold(None, is_current=False, stale_s=None))
    for view in "123":
        screen.press(view)
        lines = lines_of(board, screen, width, height)
        assert len(lines) <= height or height < 3
        assert all(len(line) <= width for line in lines)


@pytest.mark.parametrize(
    ("pulse", "text"),
    [
        (PulseTold(7, is_current=True, stale_s=0.0), ""),
        (PulseTold(7, is_current=False, stale_s=12.4), "cut off from the mesh for 12 s"),
        (PulseTold(7, is_current=False, stale_s=None), "cut off from the mesh since its start"),
        (PulseTold(None, is_current=False, stale_s=None), "does not answer"),
    ],
)
def test_it_says_when_what_is_shown_may_not_be_so(board: Board, pulse: PulseTold, text: str):
    board.take(pulse)
    assert text in board.warning()
    assert bool(text) == bool(board.warning())


def test_ten_thousand_instances_are_sorted_and_drawn_in_half_a_second():
    board = Board()
    board.take(ServicesTold([instance(f"s{number % 97}", id=str(number)) for number in range(10_000)]))
    screen = Screen(board)
    begin = time.process_time()
    lines_of(board, screen, 80, 24)
    assert time.process_time() - begin < DRAWING_S_MAX


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (0, "0s"), (59, "59s"), (60, "1m"), (7300, "2h"), (200_000, "2d")]
)
def test_an_age_is_told_in_its_largest_unit(seconds: float, text: str):
    assert shown_age(seconds) == text
