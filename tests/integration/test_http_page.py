"""The page on HTTP, typed as it stands: only its addresses are exchanged for those of a real agent."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest
from agents import ROOT, AgentProcess, eventually, mesh_in
from http_support import own_address

PAGE = (ROOT / "docs" / "http.md").read_text()
TOKEN = "letter-of-credence"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[AgentProcess]:
    """An agent that other hosts reach."""
    if shutil.which("curl") is None or shutil.which("jq") is None:
        pytest.skip("curl or jq is not installed")
    with mesh_in(tmp_path) as mesh:
        yield mesh.started(
            "jetson",
            SERVICE_REGISTRY_HOST="0.0.0.0",
            SERVICE_REGISTRY_TOKEN=TOKEN,
            PMOVES_ADVERTISE_HOST=own_address(),
        )


def typed(agent: AgentProcess, commands: str) -> list[str]:
    """Returns the lines that commands print, where the mesh's files are."""
    port = agent.url.rpartition(":")[2]
    commands = commands.replace("10.0.0.5", own_address()).replace("8100", port)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=agent.tls_dir.parent,
        env={"SERVICE_REGISTRY_TOKEN": TOKEN, "PATH": "/usr/local/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
    return done.stdout.split()


def test_every_command_of_the_page_does_what_it_says(agent: AgentProcess):
    blocks = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    register, find, consistent, deregister, wrong, remote = blocks
    assert typed(agent, register) == ['"registered"']
    eventually(lambda: len(agent.get("/api/nodes").body["nodes"]) == 1, "it announced itself")
    shown = " ".join(typed(agent, find))
    assert f'{{ "host": "{own_address()}", "port": 9000, "health_status": "unknown" }} 1' in shown
    assert shown.endswith('{ "name": "jetson", "status": "alive" }')
    assert typed(agent, consistent) == ['"tts"']
    assert typed(agent, deregister) == ['"unregistered"']
    assert not agent.knows("tts")
    problem = " ".join(typed(agent, wrong))
    assert '"status": 422, "field": "port"' in problem
    assert typed(agent, remote) == ["9000", '"registered"']


def test_every_status_of_the_page_is_one_that_the_document_knows(agent: AgentProcess):
    text = PAGE.partition("## When something is wrong")[2].partition("##")[0].partition("Errors are")[2]
    named = {int(status) for status in re.findall(r"\b[45]\d\d\b", text)}
    operations = [
        operation for path in agent.get("/openapi.json").body["paths"].values() for operation in path.values()
    ]
    assert named <= {int(status) for operation in operations for status in operation["responses"]}
    assert {HTTPStatus.NOT_FOUND, HTTPStatus.UNPROCESSABLE_ENTITY} <= named
