"""The page on the past, typed as it stands: only its port is exchanged for that of a real agent."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import ROOT, AgentProcess, eventually, mesh_in

PAGE = (ROOT / "docs" / "history.md").read_text()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    if shutil.which("curl") is None or shutil.which("jq") is None:
        pytest.skip("curl or jq is not installed")
    with mesh_in(tmp_path) as mesh:
        yield mesh.started("jetson")


def typed(agent: AgentProcess, commands: str) -> list[str]:
    """Returns the lines that commands print."""
    done = subprocess.run(
        ["bash", "-euc", commands.replace("8100", agent.url.rpartition(":")[2])],
        cwd=agent.directory,
        env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout.splitlines()


def test_every_command_of_the_page_does_what_it_says(agent: AgentProcess):
    eventually(lambda: len(agent.get("/api/nodes").body["nodes"]) == 1, "it announced itself")
    agent.register("whisper", port=9000)
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    moment, changed, events, live = blocks
    assert typed(agent, moment) == ['["whisper"]', "1", '["jetson"]']
    assert typed(agent, changed) == ['["whisper"]', "[]", "[]"]
    signer = "spiffe://pmoves-mesh/node/jetson"
    assert typed(agent, events) == [f'["registered","jetson",true,"{signer}"]', '["jetson"]']
    assert typed(agent, live) == ["event: event"]


def test_every_status_of_the_page_is_one_that_the_document_knows(agent: AgentProcess):
    named = set(re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE))
    paths = agent.get("/openapi.json").body["paths"]
    for path in ("/api/services", "/api/nodes", "/api/events", "/api/diff"):
        assert named <= set(paths[path]["get"]["responses"]), path
