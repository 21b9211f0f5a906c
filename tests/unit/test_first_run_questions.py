"""What `first-run` asks: only what it cannot know, and only on a terminal."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest

from pmoves_mesh.agent.lan import Hub
from pmoves_mesh.cli import first_run


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "token"), [("", None), (" pmoves1-abc ", "pmoves1-abc")])
def test_a_person_is_asked_for_the_token_and_enter_begins_a_mesh(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str,
    token: str | None,
):
    asked: list[str] = []

    def prompt(text: str, **_: Any) -> str:
        asked.append(text)
        return answer

    async def found() -> list[Hub]:
        return [Hub(mesh="home", node="main", urls=("https://10.0.0.5:8100",))]

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr("click.prompt", prompt)
    monkeypatch.setattr(first_run.lan, "find", found)
    assert first_run._asked_token() == token
    assert "Enter begins a mesh here" in asked[0]
    assert "on this network: mesh home, whose CA node main keeps" in capsys.readouterr().out


def test_where_there_is_no_terminal_nothing_is_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("pmoves1-abc"))
    assert first_run._asked_token() is None
