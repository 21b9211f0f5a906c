"""The pages for Python programs and for microservices: every snippet runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agents import ROOT, AgentProcess, mesh_in

USUAL_NATS = "nats://127.0.0.1:4222"
SAID = {
    "in the mesh on alpha\n": "register",
    "10.0.0.7:8086 http://10.0.0.7:8086/query alpha\n"
    "hi-rag unknown {'model': 'bge'}\n"
    "calling http://10.0.0.7:8086/query\n": "find",
    "registered 10.0.0.7:8086\n": "without a loop",
    "added 10.0.0.7:8086\n": "watch",
    "ingest.video.v1 {'topic': 'video', 'id': 7}\n": "talk",
}


def snippets(page: str) -> list[str]:
    found = re.findall(
        r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL
    )
    assert found
    return found


@pytest.fixture(scope="module")
def alpha(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        alpha = mesh.started("alpha")
        alpha.register(
            "hi-rag",
            host="10.0.0.7",
            port=8086,
            capabilities=["rag", "search"],
            metadata={"model": "bge"},
        )
        yield alpha


def printed(agent: AgentProcess, snippet: str) -> str:
    """Runs a snippet on an agent's host, whose NATS is not at the usual port."""
    done = subprocess.run(
        [sys.executable, "-c", snippet.replace(USUAL_NATS, agent.environment["NATS_URL"])],
        env={**os.environ, **agent.environment, "SERVICE_REGISTRY_URL": agent.url},
        cwd=agent.directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


@pytest.mark.parametrize("snippet", snippets("sdk.md"))
def test_a_snippet_for_python_programs_does_what_the_page_says(alpha: AgentProcess, snippet: str):
    assert printed(alpha, snippet) in SAID


def test_the_snippets_are_sound_for_a_strict_type_checker(tmp_path: Path):
    for number, snippet in enumerate(snippets("sdk.md")):
        (tmp_path / f"snippet_{number}.py").write_text(snippet)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache", *tmp_path.glob("*.py")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_page_shows_every_use_once():
    assert len(snippets("sdk.md")) == len(SAID)


@pytest.mark.parametrize("snippet", snippets("microservices.md"))
def test_the_microservice_of_the_page_runs_beside_an_agent(alpha: AgentProcess, snippet: str):
    alpha.register("whisper", port=9000)
    assert printed(alpha, snippet) == "whisper is unknown\n"
