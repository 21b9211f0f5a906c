"""The pages for troubleshooting and for events: every command runs, and every line that is named exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import ROOT, AgentProcess, eventually, mesh_in
from ports import free_port

from pmoves_mesh.cli.doctor import CHECKS
from pmoves_mesh.core.application import KINDS
from pmoves_mesh.settings import SETTINGS

TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
EVENTS = (ROOT / "docs" / "events.md").read_text()
NAMES = {check.name for check in CHECKS} | {"settings"}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        alpha = mesh.started("alpha", SERVICE_REGISTRY_PORT=str(free_port()))
        shutil.copy(alpha.directory / "agent.log", alpha.data_dir / "agent.log")
        yield alpha


def types(agent: AgentProcess, commands: str, *, limit_s: float = 60) -> str:
    """Types commands on an agent's host, where the program is on PATH."""
    programs = agent.directory / "bin"
    programs.mkdir(exist_ok=True)
    wrapper = programs / "pmoves-mesh"
    wrapper.write_text(f'#!/bin/sh\nexec {sys.executable} -m pmoves_mesh "$@"\n')
    wrapper.chmod(0o755)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=agent.directory,
        env={**agent.environment, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_of_the_troubleshooting_page_does_what_it_says(alpha: AgentProcess):
    if shutil.which("jq") is None:
        pytest.skip("no jq command is installed")
    look, report, more = blocks(TROUBLE, "sh")
    assert "ok       lease" in types(alpha, look)
    assert types(alpha, report).startswith("durability: the NATS server is not ours")
    said = types(alpha, more)
    assert "alpha" in said
    assert "nothing differs" in said or "keys up to position" in said
    assert '"event": ' in said


def test_the_page_explains_every_line_of_doctor_and_no_other():
    table = TROUBLE.partition("## What each line looks at")[2]
    explained = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    assert sorted(name for cell in explained for name in re.findall(r"`([^`]+)`", cell)) == sorted(NAMES)


def test_every_symptom_leads_to_a_line_that_there_is():
    rows = re.findall(r"^\| [^|]+ \| ([^|]+) \| [^|]+ \|$", TROUBLE, re.MULTILINE)
    named = {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)}
    assert len(named) > 10
    assert named <= NAMES


def test_the_events_page_shows_what_it_says(alpha: AgentProcess):
    (snippet,) = blocks(EVENTS, "python")
    done = subprocess.run(
        [sys.executable, "-c", snippet],
        env={**os.environ, **alpha.environment, "SERVICE_REGISTRY_URL": alpha.url},
        cwd=alpha.directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert re.fullmatch(r"kept at \d+\n", done.stdout), done.stderr
    assert done.stderr == ""
    _, kept = blocks(EVENTS, "sh")[0].splitlines()
    assert '"key":"a.pdf"' in types(alpha, kept)


def test_the_first_command_of_the_events_page_hears_what_is_told(alpha: AgentProcess):
    now, _ = blocks(EVENTS, "sh")[0].splitlines()
    output = alpha.directory / "heard"

    def heard() -> bool:
        subprocess.run(
            [sys.executable, "-c", blocks(EVENTS, "python")[0]],
            env={**os.environ, **alpha.environment, "SERVICE_REGISTRY_URL": alpha.url},
            cwd=alpha.directory,
            check=True,
            capture_output=True,
        )
        return "ingest.file.added.v1" in output.read_text()

    types(alpha, "true")  # puts the program there
    environment = {
        **alpha.environment,
        "PATH": f"{alpha.directory / 'bin'}{os.pathsep}{os.environ['PATH']}",
    }
    with (
        output.open("w") as file,
        subprocess.Popen(
            ["bash", "-c", f"exec {now}"], cwd=alpha.directory, env=environment, stdout=file
        ) as tail,
    ):
        try:
            eventually(heard, "the tail hears it")
        finally:
            tail.kill()


def test_the_events_page_names_the_streams_and_settings_that_there_are():
    for kind in KINDS:
        assert f"| `{kind.subject}` | `{kind.stream}` | `{kind.__name__}` |" in EVENTS
    known = {setting.name for setting in SETTINGS}
    assert set(re.findall(r"PMOVES_\w+", EVENTS)) <= known
    assert Path(ROOT / "docs" / "adr" / "0044-what-applications-tell.md").exists()
