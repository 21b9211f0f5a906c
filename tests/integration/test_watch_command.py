"""`pmoves-mesh watch` with a real agent: what it prints, and how it comes back after a break."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from agents import DEADLINE_S, AgentProcess, Mesh, eventually, mesh_in
from ports import free_port

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    with mesh_in(tmp_path) as made:
        yield made


@pytest.fixture
def agent(mesh: Mesh) -> AgentProcess:
    return mesh.started("alpha", SERVICE_REGISTRY_PORT=str(free_port()))


class Watch:
    """The command as it runs, and what it has printed so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.notes: list[str] = []
        self._threads = [
            threading.Thread(target=self._keep, args=pair)
            for pair in ((process.stdout, self.lines), (process.stderr, self.notes))
        ]
        for thread in self._threads:
            thread.start()

    def _keep(self, stream: Any, lines: list[str]) -> None:
        lines.extend(iter(stream.readline, ""))

    def printed(self, *expected: str) -> None:
        """Waits until exactly these lines were printed."""
        eventually(lambda: len(self.lines) >= len(expected), f"{expected}; printed: {self.lines}")
        assert tuple(line.rstrip("\n") for line in self.lines) == expected

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        code = self.process.wait(DEADLINE_S)
        for thread in self._threads:
            thread.join(DEADLINE_S)
        return code


@contextmanager
def watch(agent: AgentProcess, *arguments: str) -> Iterator[Watch]:
    port = agent.url.rpartition(":")[2]
    process = subprocess.Popen(
        [*agent.program, "watch", *arguments],
        cwd=agent.directory,
        env={**agent.environment, "SERVICE_REGISTRY_PORT": port},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        running = Watch(process)
        try:
            yield running
        finally:
            running.end(signal.SIGKILL)


def test_it_prints_what_is_there_and_every_change_until_it_is_interrupted(agent: AgentProcess):
    agent.register("whisper", id="1", port=9000)
    with watch(agent) as running:
        whisper = "whisper/1 on alpha  127.0.0.1:9000  unknown"
        running.printed(f"  {whisper}")
        agent.register("rag", id="1", port=9001, host="::1")
        rag = "rag/1 on alpha  [::1]:9001  unknown"
        running.printed(f"  {whisper}", f"+ {rag}")
        agent.request("PUT", "/api/services/rag/maintenance", json={"on": True})
        agent.delete("/api/services/whisper")
        running.printed(f"  {whisper}", f"+ {rag}", f"~ {rag}, in maintenance", f"- {whisper}")
        assert running.end(signal.SIGINT) == 0
        assert not "".join(running.notes).strip()


def test_it_comes_back_to_an_agent_that_was_away_and_tells_only_what_is_different(agent: AgentProcess):
    agent.register("whisper", id="1", port=9000)
    agent.register("rag", id="1", port=9001)
    with watch(agent, "--json") as as_json, watch(agent) as running:
        eventually(lambda: len(running.lines) == 2 and len(as_json.lines) == 1, "both have begun")
        agent.kill()
        eventually(lambda: bool(running.notes), "it says that the connection broke")
        assert "broke; trying again" in running.notes[0]
        agent.restart()
        agent.register("tts", id="1", port=9002)
        agent.delete("/api/services/rag")
        eventually(lambda: len(running.lines) == 4, f"the changes are printed: {running.lines}")
        assert sorted(line[:5] for line in running.lines[2:]) == ["+ tts", "- rag"]
        eventually(lambda: held(as_json.lines) == {"whisper", "tts"}, f"JSON tells it: {as_json.lines}")
        positions = [json.loads(line)["position"] for line in as_json.lines]
        assert positions == sorted(positions)


def held(lines: list[str]) -> set[str]:
    """Returns which services a reader of the JSON lines holds after all of them."""
    names: set[str] = set()
    for line in lines:
        event = json.loads(line)
        match event["event"]:
            case "snapshot":
                names = {one["name"] for one in event["data"]["services"]}
            case "removed":
                names.discard(event["data"]["name"])
            case _:
                names.add(event["data"]["name"])
    return names


def test_a_filter_is_the_agents(agent: AgentProcess):
    with watch(agent, "--name", "whisper", "--capability", "stt", "--node", "alpha", "--json") as running:
        eventually(lambda: len(running.lines) == 1, "it has begun")
        agent.register("rag", port=9001, capabilities=["stt"])
        agent.register("whisper", port=9002)
        agent.register("whisper", port=9003, capabilities=["stt", "gpu"])
        eventually(lambda: len(running.lines) == 2, "the one that matches is told")
        assert json.loads(running.lines[1])["data"]["port"] == 9003


def test_a_pipe_that_ends_ends_it_quietly(agent: AgentProcess):
    agent.register("whisper", id="1", port=9000)
    command = f"{sys.executable} -m pmoves_mesh watch | head -n 1"
    environment = {**agent.environment, "SERVICE_REGISTRY_PORT": agent.url.rpartition(":")[2]}
    with subprocess.Popen(
        ["sh", "-c", command],
        cwd=agent.directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("  whisper/1")
        for port in (9001, 9002):
            agent.register("rag", port=port)
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert not errors


def test_without_an_agent_it_fails_with_one_line(agent: AgentProcess):
    agent.kill()
    done = subprocess.run(
        [*agent.program, "watch"],
        cwd=agent.directory,
        env={**agent.environment, "SERVICE_REGISTRY_PORT": str(free_port())},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert done.returncode == 1
    assert "no agent answers at" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_filter_that_nothing_can_match_fails_with_what_the_agent_says(agent: AgentProcess):
    done = agent.run("watch", "--node", "not_a_label!")
    assert done.returncode == 1
    assert done.stderr.startswith("pmoves-mesh: node: ")


def test_a_reader_that_goes_while_nothing_happens_ends_it_too(agent: AgentProcess):
    agent.register("whisper", id="1", port=9000)
    environment = {**agent.environment, "SERVICE_REGISTRY_PORT": agent.url.rpartition(":")[2]}
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m pmoves_mesh watch | head -n 1"],
        cwd=agent.directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("  whisper/1")
