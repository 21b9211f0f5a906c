from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pmoves_mesh.cli.top.keys import Keys


def pressed(*parts: bytes) -> list[str]:
    keys = Keys()
    return [key for part in parts for key in keys.feed(part)] + keys.settle()


@pytest.mark.parametrize(
    ("sent", "names"),
    [
        (b"q", ["q"]),
        (b"\x1b[A\x1b[B", ["up", "down"]),
        (b"\x1bOA\x1bOB", ["up", "down"]),
        (b"\x1b[5~\x1b[6~\x1b[H\x1b[4~", ["page_up", "page_down", "home", "end"]),
        (b"\r\n\t\x7f\b\x15\x0c", ["enter", "enter", "tab", "backspace", "backspace", "clear", "redraw"]),
        (b"\x1b", ["escape"]),
        (b"\x1bq", ["escape", "q"]),
        (b"\x1b\x1b[A", ["escape", "up"]),
        (b"\x1b[1;5A\x1b[200~\x00\x07", []),
        ("ü".encode(), ["ü"]),
        (b"\xff\xfe", []),
    ],
)
def test_what_a_terminal_sends_is_named(sent: bytes, names: list[str]):
    assert pressed(sent) == names


@given(st.integers(0, 11))
def test_a_key_may_come_in_pieces(cut: int):
    sent = "\x1b[A\x1b[5~ü\r".encode()
    assert pressed(sent[:cut], sent[cut:]) == ["up", "page_up", "ü", "enter"]


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_whatever_comes_a_key_is_a_name_or_one_letter_that_can_be_shown(parts: list[bytes]):
    for key in pressed(*parts):
        assert key.isprintable()
        assert key


def test_a_sequence_without_an_end_is_not_kept_for_ever():
    keys = Keys()
    for _ in range(100):
        keys.feed(b"\x1b[0000000000")
    assert len(keys.feed(b"0" * 100)) > 90
