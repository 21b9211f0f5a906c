"""docs/terminal.md: its commands are run, and its keys pressed, against a real agent."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
from agents import DEADLINE_S, AgentProcess, eventually, mesh_in
from pages import DOCS, snippets
from ports import free_port
from terminal_support import Terminal

pytestmark = pytest.mark.timeout(180)

TOP, PAST, FORGOTTEN, PIPE = snippets("terminal.md", "sh")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    with mesh_in(tmp_path_factory.mktemp("mesh")) as mesh:
        made = mesh.started("alpha", SERVICE_REGISTRY_PORT=str(free_port()))
        made.register("whisper", id="1", port=9000, capabilities=["stt"])
        made.register("whisper", id="1", port=9001, capabilities=["stt"])
        eventually(lambda: made.registry["outbox"] == 0, "all of it is in the stream")
        yield made


def run(agent: AgentProcess, line: str) -> subprocess.CompletedProcess[str]:
    """Runs a line of the page as a shell does."""
    return subprocess.run(
        ["sh", "-c", line.replace("pmoves-mesh", " ".join(agent.program))],
        cwd=agent.directory,
        env={**agent.environment, "SERVICE_REGISTRY_PORT": agent.url.rpartition(":")[2]},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )


def test_top_takes_every_key_of_the_page(agent: AgentProcess):
    (line,) = TOP.splitlines()
    environment = {**agent.environment, "SERVICE_REGISTRY_PORT": agent.url.rpartition(":")[2]}
    command = line.replace("pmoves-mesh", " ".join(agent.program)).split()
    table = (DOCS / "terminal.md").read_text().partition("| key |")[2].partition("\n\n")[0]
    keys = re.findall(r"`(.)`", table)
    assert set(keys) == set("123sr/jkgGq")
    with Terminal(command, environment, agent.directory) as terminal:
        terminal.shows("whisper")
        terminal.press("\t\x1b[A\x1b[6~/x\x1b" + "".join(keys).replace("q", "").replace("/", ""))
        terminal.shows("events, by")
        terminal.press("q")
        assert terminal.ended() == 0


@pytest.mark.parametrize("line", PAST.splitlines())
def test_each_command_about_the_past_prints_what_the_page_says(agent: AgentProcess, line: str):
    # Of 15 minutes ago this mesh knows nothing yet.
    done = run(agent, line.replace("15m", "0s").replace("1h", "2"))
    assert done.returncode == 0, done.stderr
    expected = {"events": "registered", "history": "moved", "services": "whisper", "diff": "SERVICE"}
    assert expected[line.split()[1]] in done.stdout


def test_what_the_stream_has_forgotten_is_one_line_that_says_from_when_on_it_can_be_asked(
    agent: AgentProcess,
):
    done = run(agent, FORGOTTEN)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert re.search(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T", done.stderr)


def test_the_pipe_of_the_page_prints_what_changed(agent: AgentProcess):
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    first = json.loads(run(agent, "pmoves-mesh events --service whisper --json | head -n 1").stdout)
    done = run(agent, PIPE.replace("15m", str(first["position"])))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["whisper", ["port"]]
