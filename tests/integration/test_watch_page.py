"""docs/watch.md: its snippets are run against a real agent."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from agents import AgentProcess, Mesh, eventually, mesh_in
from nats_server import free_port
from pages import snippets

pytestmark = pytest.mark.timeout(180)

WATCH, STREAM, POLL = snippets("watch.md", "sh")
(SHOWN,) = snippets("watch.md", "text")
(PROGRAM,) = snippets("watch.md", "python")


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as made:
        yield made


@pytest.fixture
def agent(mesh: Mesh) -> AgentProcess:
    return mesh.started("alpha", SERVICE_REGISTRY_PORT=str(free_port()))


@contextmanager
def printing(agent: AgentProcess, *command: str, tmp_path: Path) -> Iterator[Path]:
    """Runs a command of the page for a while; gives the file that it prints into."""
    output = tmp_path / "output"
    environment = {
        **agent.environment,
        "SERVICE_REGISTRY_PORT": agent.url.rpartition(":")[2],
        "PYTHONUNBUFFERED": "1",
    }
    with (
        output.open("wb") as file,
        subprocess.Popen(
            command, cwd=agent.directory, env=environment, stdout=file, stderr=file, start_new_session=True
        ) as process,
    ):
        try:
            yield output
        finally:
            process.kill()


def test_the_command_of_the_page_prints_what_comes_and_goes(agent: AgentProcess, tmp_path: Path):
    command = WATCH.strip().replace("pmoves-mesh", " ".join(agent.program)).split()
    with printing(agent, *command, tmp_path=tmp_path) as output:
        eventually(lambda: agent.get("/metrics").text.count('watchers{kind="events"} 1.0') == 1, "it watches")
        check = {"type": "ttl", "ttl_s": 600}
        agent.register("whisper", id="1", port=9000, capabilities=["stt"], check=check)
        agent.request("PUT", "/api/services/whisper/health", json={"status": "healthy"})
        eventually(lambda: "+ whisper/1 on alpha" in output.read_text(), "it comes")
        agent.request("PUT", "/api/services/whisper/health", json={"status": "unhealthy"})
        agent.delete("/api/services/whisper")
        eventually(lambda: "- whisper/1 on alpha" in output.read_text(), "it goes")


def test_curl_shows_the_events_that_the_page_shows(agent: AgentProcess, tmp_path: Path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    check = {"type": "ttl", "ttl_s": 600}
    agent.register("whisper", id="9000", port=9000, check=check)
    command = STREAM.strip().replace("http://localhost:8100", agent.url).replace("'", "").split()
    with printing(agent, *command, tmp_path=tmp_path) as output:
        eventually(lambda: "event: snapshot" in output.read_text(), "the snapshot comes")
        agent.request("PUT", "/api/services/whisper/health", json={"status": "unhealthy"})
        eventually(lambda: "event: changed" in output.read_text(), "the change comes")
        eventually(lambda: output.read_text().endswith("}\n\n"), "all of it")
        lines = [line for line in output.read_text().splitlines() if line and not line.startswith("retry")]
    expected = [line for line in SHOWN.splitlines() if line]
    assert [line.partition(":")[0] for line in lines] == [line.partition(":")[0] for line in expected]
    snapshot, changed = (json.loads(line.removeprefix("data: ")) for line in lines if line[:5] == "data:")
    assert snapshot["count"] == 1
    assert set(snapshot) == {"count", "services"}
    assert (changed["id"], changed["health_status"]) == ("9000", "unhealthy")


def test_the_program_of_the_page_holds_what_the_agent_lists(agent: AgentProcess, tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("http://localhost:8100", agent.url))
    agent.register("whisper", port=9000)
    with printing(agent, sys.executable, str(program), tmp_path=tmp_path) as output:
        eventually(lambda: "snapshot ['whisper']" in output.read_text(), "it begins with what is there")
        agent.register("rag", port=9001)
        eventually(lambda: "added ['rag', 'whisper']" in output.read_text(), "it hears what comes")
        agent.delete("/api/services/whisper")
        eventually(lambda: "removed ['rag']" in output.read_text(), "it hears what goes")
    assert "Traceback" not in output.read_text()


def test_a_list_that_waits_comes_with_the_change(agent: AgentProcess, tmp_path: Path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = POLL.replace("http://localhost:8100", agent.url).replace("wait=2s", "wait=60s")
    with printing(agent, "sh", "-ec", script, tmp_path=tmp_path) as output:
        answer = agent.directory / "services.json"
        eventually(lambda: 'watchers{kind="polls"} 1.0' in agent.get("/metrics").text, "it waits")
        assert json.loads(answer.read_text())["count"] == 0
        agent.register("whisper", port=9000)
        eventually(lambda: '"count":1' in answer.read_text(), "the answer comes")
    assert not output.read_text()
