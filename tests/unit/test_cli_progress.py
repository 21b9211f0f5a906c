"""The bar of what takes longer than a second, in a terminal of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from terminal_support import CURSOR_SHOWN, OWN, Terminal

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}
PROGRAM = """
import sys, time
from pmoves_mesh.cli.progress import shown_progress
long_s, as_json = float(sys.argv[1]), sys.argv[2] == "json"
with shown_progress("waiting", as_json=as_json) as progress:
    time.sleep(long_s / 2)
    for number in range(20):
        progress("reading the stream", number + 1, 20)
        time.sleep(long_s / 40)
print("done")
"""


def bar(tmp_path: Path, seconds: float, kind: str = "text", **settings: str) -> Terminal:
    command = [sys.executable, "-c", PROGRAM, str(seconds), kind]
    return Terminal(command, {**ENVIRONMENT, **settings}, tmp_path)


def test_a_bar_shows_what_is_under_way_and_is_gone_at_the_end(tmp_path: Path):
    with bar(tmp_path, 2.5) as terminal:
        terminal.until(lambda: "waiting" in terminal.text, "it shows what is waited for")
        terminal.until(lambda: "reading the stream" in terminal.text, "it goes on")
        assert terminal.ended() == 0
        assert "%" in terminal.text
        assert OWN.sub("", terminal.text.rpartition("\r")[0].rpartition("\r")[2]).strip() in {"", "done"}
        assert terminal.text.count("done") == 1


def test_the_cursor_is_never_left_hidden_not_even_by_a_kill(tmp_path: Path):
    with bar(tmp_path, 60) as terminal:
        terminal.until(lambda: "waiting" in terminal.text, "it is shown")
        terminal.until(lambda: CURSOR_SHOWN in terminal.text, "the cursor is")
        assert terminal.text.rindex(CURSOR_SHOWN) > terminal.text.rindex("\x1b[?25l")


def test_ctrl_c_takes_the_bar_away(tmp_path: Path):
    with bar(tmp_path, 60) as terminal:
        terminal.until(lambda: "waiting" in terminal.text, "it is shown")
        terminal.press("\x03")
        assert terminal.ended() != 0
        assert "KeyboardInterrupt" in terminal.text


@pytest.mark.parametrize(
    ("seconds", "kind", "term"), [(0.2, "text", "xterm"), (1.6, "json", "xterm"), (1.6, "text", "dumb")]
)
def test_nothing_is_shown_of_what_is_done_at_once_or_is_for_a_program(
    tmp_path: Path, seconds: float, kind: str, term: str
):
    with bar(tmp_path, seconds, kind, TERM=term) as terminal:
        assert terminal.ended() == 0
        assert terminal.text == "done\r\n"


def test_nothing_is_shown_where_there_is_no_terminal(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "1.6", "text"],
        capture_output=True,
        cwd=tmp_path,
        env={**ENVIRONMENT, "TERM": "xterm"},
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


def test_a_pipe_gets_the_answer_alone_while_the_bar_goes_to_the_terminal(tmp_path: Path):
    with (tmp_path / "answer").open("w") as file:
        command = [sys.executable, "-c", PROGRAM, "2.5", "text"]
        with Terminal(command, ENVIRONMENT, tmp_path, stdout=file) as terminal:
            assert terminal.ended() == 0
            assert "reading the stream" in terminal.text
    assert (tmp_path / "answer").read_text() == "done\n"
