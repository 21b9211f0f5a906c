from __future__ import annotations

import io
import json
import sys

import pytest

from pmoves_mesh.cli.console import Column, cell, print_fields, print_json, print_table

COLUMNS = (Column("NAME", "name"), Column("CAPABILITIES", "capabilities"))
ROWS = [{"name": "whisper", "capabilities": ["stt", "gpu"]}, {"name": "[bold]x"}]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        (True, "yes"),
        (False, "no"),
        (8100, "8100"),
        ("plain", "plain"),
        (["a", "b"], "a, b"),
        (("a",), "a"),
        ({"k": 1, "l": "m"}, "k=1, l=m"),
        ("two\nlines\tand \x1b[31mred\x07", "two\\nlines\\tand \\x1b[31mred\\x07"),
        ("\u202eturned", "\\u202eturned"),
        ("Zürich", "Zürich"),
    ],
)
def test_a_cell_is_one_line_that_cannot_steer_a_terminal(value: object, text: str):
    assert cell(value) == text


def test_a_pipe_gets_a_tab_separated_line_for_each_row(capsys: pytest.CaptureFixture[str]):
    print_table(COLUMNS, ROWS, empty="none")
    assert capsys.readouterr().out == "NAME\tCAPABILITIES\nwhisper\tstt, gpu\n[bold]x\t\n"


def test_a_pipe_gets_the_headings_even_without_rows(capsys: pytest.CaptureFixture[str]):
    print_table(COLUMNS, [], empty="none")
    assert capsys.readouterr().out == "NAME\tCAPABILITIES\n"


def test_a_terminal_gets_a_table_whose_cells_are_not_markup(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table(COLUMNS, ROWS, empty="none")
    lines = terminal.getvalue().splitlines()
    assert [line for line in lines if "whisper" in line and "stt, gpu" in line]
    assert "[bold]x" in terminal.getvalue()


def test_a_terminal_gets_a_sentence_when_there_are_no_rows(monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    print_table(COLUMNS, [], empty="no services")
    assert terminal.getvalue() == "no services\n"


def test_fields_stand_under_each_other(capsys: pytest.CaptureFixture[str]):
    print_fields([("mesh", "m"), ("hostname", "alpha"), ("nats_external", None)])
    assert capsys.readouterr().out == "mesh           m\nhostname       alpha\nnats_external\n"


def test_json_keeps_the_order_and_the_letters_of_the_answer(capsys: pytest.CaptureFixture[str]):
    print_json({"b": "Zürich", "a": [1]})
    out = capsys.readouterr().out
    assert list(json.loads(out)) == ["b", "a"]
    assert "Zürich" in out


def test_json_holds_nothing_that_steers_a_terminal_and_is_the_same_value(capsys: pytest.CaptureFixture[str]):
    value = {"note": "\x1b[2J \x9b2J \u202e \x7f \u2028 \x00", "name": "Zürich"}
    print_json(value)
    out = capsys.readouterr().out
    assert json.loads(out) == value
    assert "Zürich" in out
    assert all(letter.isprintable() or letter == "\n" for letter in out)
