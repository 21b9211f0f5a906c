"""docs/console.md: its commands are run against a real agent, and its pictures are what they say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from agents import mesh_in
from browser import chromium
from pages import DOCS, snippets

PAGE = (DOCS / "console.md").read_text()
PICTURES = DOCS / "screenshots"
BYTES_MAX = 120_000
VIEWS = ("mesh", "services", "timeline", "trust")


def test_the_commands_of_the_page_show_json_and_then_the_page(tmp_path: Path):
    (commands,) = snippets("console.md", "sh")
    with mesh_in(tmp_path) as mesh:
        agent = mesh.started("alpha")
        commands = commands.replace("localhost:8100", agent.url.removeprefix("http://"))
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", commands],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert done.stdout.split("\n")[:2] == ["service-registry", "<!doctype html>"]


def test_every_picture_that_is_shown_is_there_and_small_and_none_is_left_over():
    readme = (DOCS.parent / "README.md").read_text()
    shown = set(re.findall(r"screenshots/([\w-]+\.png)", PAGE + readme))
    assert {f"{view}.png" for view in VIEWS} <= shown
    assert shown == {file.name for file in PICTURES.iterdir()}
    assert not [file.name for file in PICTURES.iterdir() if file.stat().st_size > BYTES_MAX]


def test_every_picture_says_in_words_what_it_shows():
    assert not [
        alt for alt, _ in re.findall(r"!\[(.*?)\]\((screenshots/.*?)\)", PAGE) if len(alt.split()) < 5
    ]


@pytest.mark.skipif(chromium() is None, reason="Chromium is not installed")
def test_the_pictures_are_taken_by_one_command_and_no_second_time_for_nothing(tmp_path: Path):
    command = [sys.executable, str(DOCS.parent / "tests" / "screenshots.py"), str(tmp_path)]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
        for _ in range(2)
    )
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in PICTURES.iterdir()}
    assert first.count("is taken") == second.count("is as it was") == len(list(PICTURES.iterdir()))
